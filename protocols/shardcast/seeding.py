"""Seeding: the origin of a large payload gives each leaf to one peer first. Pure.

While leaves are left that nobody took, a peer is shown only those that it is to spread: half of its
even share of what is left, more when it has taken most of them, so that fast peers get more (guided
self-scheduling, Polychronopoulos and Kuck 1987). So every leaf has left the origin once after W/u,
the least time there is, and everything else can go on without it. A leaf whose peer went away
before the end is given to another; one that nobody comes for is shown to all.
"""

from __future__ import annotations

import random

from primed.protocols.limits import SEED_PATIENCE_S
from primed.protocols.shardcast.bitmap import Bitmap


class Seeding:
    def __init__(self, leaves: int, rng: random.Random) -> None:
        self._leaves = leaves
        self._pool = rng.sample(range(leaves), leaves)
        self._spread: dict[bytes, set[int]] = {}  # peer -> what it has to take yet
        self._grant: dict[bytes, int] = {}  # peer -> leaves of its last grant
        self._taken: dict[int, bytes] = {}  # leaf -> who took it first; b"": open to all
        self._active_at: dict[bytes, float] = {}
        self._idle: set[bytes] = set()  # peers that did not come for what they were given

    @property
    def is_over(self) -> bool:
        """Every leaf has left once."""
        return len(self._taken) == self._leaves

    def visible(self, peer: bytes, among: int, now: float) -> Bitmap:
        """What to show a peer; `among`: how many peers there are to spread leaves."""
        self._active_at.setdefault(peer, now)
        waiting = self._spread.setdefault(peer, set())
        if peer not in self._idle and len(waiting) <= self._grant.get(peer, 0) // 2:
            self._give(peer, waiting, among)
        shared = (peer, b"")
        own = [index for index, taker in self._taken.items() if not self._pool or taker in shared]
        return Bitmap.of(self._leaves, (*waiting, *own))

    def _give(self, peer: bytes, waiting: set[int], among: int) -> None:
        count = -(-len(self._pool) // (2 * max(1, among)))
        self._grant[peer] = count
        for _ in range(count):
            waiting.add(self._pool.pop())

    def served(self, peer: bytes, index: int, now: float) -> None:
        """A leaf was sent to a peer, or it had it already."""
        self._active_at[peer] = now
        self._idle.discard(peer)
        self._taken.setdefault(index, peer)
        for waiting in self._spread.values():
            waiting.discard(index)

    def lapse(self, now: float) -> None:
        """Show to all what peers do not come for."""
        for peer, waiting in self._spread.items():
            if waiting and now - self._active_at[peer] > SEED_PATIENCE_S:
                self._taken |= dict.fromkeys(waiting, b"")
                waiting.clear()
                self._idle.add(peer)
        if self._spread.keys() == self._idle:  # nobody is left to spread the rest
            self._taken |= dict.fromkeys(self._pool, b"")
            self._pool.clear()

    def left(self, peer: bytes) -> None:
        """A peer is gone, and with it what perhaps only it had."""
        if self.is_over:
            return
        self._pool += self._spread.pop(peer, ())
        self._grant.pop(peer, None)
        self._active_at.pop(peer, None)
        self._idle.discard(peer)
        for index in [index for index, taker in self._taken.items() if taker == peer]:
            del self._taken[index]
            self._pool.append(index)
