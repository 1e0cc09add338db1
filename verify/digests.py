"""BLAKE3 digests with domain separation, and unbiased draws from its extendable output.

Rules (docs/protocol.md, "Exact bytes"): 32-byte BLAKE3 in `derive_key` mode with the context
`primed/<what>/1`; every field of a hash input is preceded by its length as u64 big-endian;
integers are u64 big-endian; uniform draws are by rejection, never modulo.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from blake3 import blake3

DIGEST_BYTES = 32
_U64 = 1 << 64


def u64(value: int) -> bytes:
    """The integer as 8 bytes big-endian. Raises OverflowError outside [0, 2**64)."""
    return value.to_bytes(8, "big")


def joined(fields: Iterable[bytes]) -> bytes:
    """Fields with their lengths in front: no two lists of fields give the same bytes."""
    return b"".join(u64(len(field)) + field for field in fields)


def digest(what: str, *fields: bytes) -> bytes:
    """32-byte digest of the fields under the context `primed/<what>/1`."""
    return blake3(joined(fields), derive_key_context=f"primed/{what}/1").digest()


def content_digest(data: bytes | memoryview) -> bytes:
    """Name of a file's content: digest("blob") of its bytes, without a length field."""
    return blake3(data, derive_key_context="primed/blob/1").digest()


def file_digest(path: Path) -> bytes:
    """content_digest of a file, read through a memory map. Blocking: call it in a thread."""
    hasher = blake3(derive_key_context="primed/blob/1")
    hasher.update_mmap(path)
    return hasher.digest()


class Xof:
    """A stream of uniform numbers derived from a digest's input (BLAKE3 extendable output)."""

    def __init__(self, what: str, *fields: bytes) -> None:
        self._hasher = blake3(joined(fields), derive_key_context=f"primed/{what}/1")
        self._at = 0

    def u64(self) -> int:
        """The next 8 bytes of the stream as a big-endian integer."""
        value = int.from_bytes(self._hasher.digest(length=8, seek=self._at), "big")
        self._at += 8
        return value

    def below(self, bound: int) -> int:
        """A uniform integer in [0, bound), by rejection. Raises ValueError if bound is not positive."""
        if not 0 < bound <= _U64:
            raise ValueError(f"bound {bound} is not in (0, 2**64]")
        limit = _U64 - _U64 % bound
        while (value := self.u64()) >= limit:
            pass
        return value % bound

    def sample(self, population: int, count: int) -> list[int]:
        """`count` distinct integers of [0, population), sorted (all of them if count is larger)."""
        if count >= population:
            return list(range(population))
        chosen: set[int] = set()
        while len(chosen) < count:
            chosen.add(self.below(population))
        return sorted(chosen)
