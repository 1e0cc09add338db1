"""LeafReader: leaves of one payload and their paths, from files that stay open. Blocking."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from primed.protocols.shardcast import sidecar
from primed.protocols.shardcast.bitmap import Bitmap
from primed.verify.statements import Payload


def leaf_size(payload: Payload, index: int) -> int:
    """Bytes of one leaf: the last may be short."""
    return min(payload.leaf_bytes, payload.size_bytes - index * payload.leaf_bytes)


class LeafReader:
    """`have` may grow meanwhile. Files are read, not mapped: a read that fails is an error here,
    a failing page of a mapped file is a signal that ends the process."""

    def __init__(self, payload: Payload, have: Bitmap, data: Path, paths: Path) -> None:
        self._payload = payload
        self._have = have
        with ExitStack() as stack:
            self._data = stack.enter_context(data.open("rb", buffering=0))
            self._paths = stack.enter_context(paths.open("rb", buffering=0))
            self._files = stack.pop_all()

    def path(self, index: int) -> list[bytes] | None:
        """The leaf's Merkle path; None if the leaf is not here."""
        if index not in self._have:
            return None
        return sidecar.read_slot(self._paths.fileno(), self._payload, index)

    def read_into(self, index: int, buffer: memoryview) -> memoryview:
        """The leaf, in the beginning of the buffer. Raises OSError."""
        leaf = buffer[: leaf_size(self._payload, index)]
        read = os.preadv(self._data.fileno(), [leaf], index * self._payload.leaf_bytes)
        if read != len(leaf):
            raise OSError(f"read {read} of {len(leaf)} bytes of leaf {index}")
        return leaf

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._files.close()
