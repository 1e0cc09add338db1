"""Bitmap: which leaves of a payload somebody has. Bit i is bit i % 8 of byte i // 8."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


class Bitmap:
    def __init__(self, count: int, data: bytes = b"") -> None:
        """Of `count` leaves; from received bytes, of which missing ones are zero and surplus bits
        are dropped."""
        self.count = count
        self._bits = bytearray((count + 7) // 8)
        self._bits[: len(data)] = data[: len(self._bits)]
        if count % 8 and self._bits:
            self._bits[-1] &= (1 << count % 8) - 1
        self.total = int.from_bytes(self._bits).bit_count()

    def __contains__(self, index: int) -> bool:
        return 0 <= index < self.count and bool(self._bits[index // 8] >> index % 8 & 1)

    def __bytes__(self) -> bytes:
        return bytes(self._bits)

    def __iter__(self) -> Iterator[int]:
        return (index for index in range(self.count) if index in self)

    def add(self, index: int) -> None:
        if not 0 <= index < self.count:
            raise IndexError(f"leaf {index} of {self.count}")
        self.total += index not in self
        self._bits[index // 8] |= 1 << index % 8

    def discard(self, index: int) -> None:
        if index in self:
            self.total -= 1
            self._bits[index // 8] &= ~(1 << index % 8)

    def window(self, start_byte: int, count_bytes: int) -> int:
        """Some of the bits as a number, lowest index lowest: sets of leaves are compared fast."""
        return int.from_bytes(self._bits[start_byte : start_byte + count_bytes], "little")

    @property
    def is_full(self) -> bool:
        return self.total == self.count

    @classmethod
    def full(cls, count: int) -> Bitmap:
        return cls(count, b"\xff" * ((count + 7) // 8))

    @classmethod
    def of(cls, count: int, indexes: Iterable[int]) -> Bitmap:
        bitmap = cls(count)
        for index in indexes:
            bitmap.add(index)
        return bitmap


def bits_of(window: int) -> Iterator[int]:
    """The positions of the bits that are set, lowest first."""
    while window:
        lowest = window & -window
        yield lowest.bit_length() - 1
        window ^= lowest
