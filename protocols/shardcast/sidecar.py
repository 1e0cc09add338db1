"""The sidecar of a payload file: the Merkle path of each leaf.

One slot a leaf: a flag byte (1 = the leaf is here) and room for the longest path.
With it a partial payload can be verified again and served, leaf by leaf, without the other leaves.
Nothing in it is trusted: a torn slot fails verification and the leaf counts as missing.
"""

from __future__ import annotations

import os
from pathlib import Path

from primed.verify import merkle
from primed.verify.digests import DIGEST_BYTES
from primed.verify.statements import Payload


def path_length(index: int, count: int) -> int:
    """Number of hashes in the audit path of a leaf."""
    length = 0
    while count > 1:
        length += index ^ 1 < count
        index, count = index // 2, (count + 1) // 2
    return length


def slot_bytes(payload: Payload) -> int:
    return 1 + DIGEST_BYTES * (payload.leaves - 1).bit_length()


def slot(payload: Payload, path: list[bytes]) -> bytes:
    return (b"\x01" + b"".join(path)).ljust(slot_bytes(payload), b"\x00")


def slot_at(payload: Payload, index: int) -> int:
    """Offset of a leaf's slot in the sidecar."""
    return index * slot_bytes(payload)


def read_slot(fd: int, payload: Payload, index: int) -> list[bytes] | None:
    """The leaf's path, or None if its slot is not filled."""
    data = os.pread(fd, slot_bytes(payload), slot_at(payload, index))
    used = 1 + DIGEST_BYTES * path_length(index, payload.leaves)
    if len(data) < used or data[0] != 1:
        return None
    return [data[i : i + DIGEST_BYTES] for i in range(1, used, DIGEST_BYTES)]


def write_all_slots(path: Path, payload: Payload, leaf_hashes: list[bytes]) -> None:
    """The sidecar of a complete payload, synced."""
    levels = merkle.levels_of(leaf_hashes)
    with path.open("wb") as file:
        for index in range(payload.leaves):
            file.write(slot(payload, merkle.path_in(levels, index)))
        file.flush()
        os.fsync(file.fileno())
