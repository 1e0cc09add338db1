"""Which of each worker's counters are accounted for, as this node has heard.

Counters are contiguous from 0 and never reused (algorithms.md section 1): of two events for one
counter the lower sequence number in the author's chain has it. Bounded: at most `ahead` counters
beyond a gap are remembered.
"""

from __future__ import annotations


class Counters:
    def __init__(self, ahead: int) -> None:
        self._ahead = ahead
        self._slots: dict[bytes, dict[int, dict[int, bytes]]] = {}  # worker, counter, seq
        self._next: dict[bytes, int] = {}
        self._settled: dict[bytes, int] = {}  # the ledger's next counter

    def following(self, worker: bytes) -> int:
        """The first counter that is not accounted for."""
        return self._next.get(worker, 0)

    def is_far(self, worker: bytes, counter: int) -> bool:
        return counter >= self.following(worker) + self._ahead

    def fill(self, worker: bytes, counter: int, seq: int, commitment: bytes) -> list[bytes]:
        """Account for a counter by a commitment, or b"" for a skip; returns the commitments that
        do not have the counter."""
        if self.is_far(worker, counter) or counter < self._settled.get(worker, 0):
            return []
        slot = self._slots.setdefault(worker, {}).setdefault(counter, {})
        slot[seq] = commitment
        self._advance(worker)
        first = min(slot)
        return [named for other, named in slot.items() if other != first and named]

    def settle(self, worker: bytes, following: int) -> None:
        """The ledger has accounted for all counters below `following`."""
        self._settled[worker] = following
        self._next[worker] = max(following, self.following(worker))
        slots = self._slots.get(worker, {})
        for counter in [counter for counter in slots if counter < following]:
            del slots[counter]
        self._advance(worker)

    def _advance(self, worker: bytes) -> None:
        following, slots = self.following(worker), self._slots.get(worker, {})
        while following in slots:
            following += 1
        self._next[worker] = following
