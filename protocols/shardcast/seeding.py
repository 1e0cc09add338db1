"""Seeding: the origin of a large payload gives each leaf to one peer first. Pure.

While there are leaves that nobody took, a peer is shown only those that it is to spread, and only
SPREADERS peers are shown any: half of an even share of what is left, more when a peer has taken most
of them, so that fast peers get more (guided self-scheduling, Polychronopoulos and Kuck 1987). So
every leaf has left the origin once after W/u, the least time there is, and everything else can go on
without it. What a peer was to spread and did not come for is given to another, and the second time
shown to all; so is what was taken by a peer that went away before the end.
"""

from __future__ import annotations

import random

from primed.protocols.limits import SEED_PATIENCE_S, SPREADERS
from primed.protocols.shardcast.bitmap import Bitmap

_ALL = b""


class Seeding:
    def __init__(self, leaves: int, rng: random.Random) -> None:
        self._leaves = leaves
        self._pool = rng.sample(range(leaves), leaves)
        self._spread: dict[bytes, set[int]] = {}  # spreader -> what it has to take yet
        self._grant: dict[bytes, int] = {}  # spreader -> leaves of its last grant
        self._active_at: dict[bytes, float] = {}
        self._taken: dict[int, bytes] = {}  # leaf -> who took it first, or _ALL
        self._shared = Bitmap(leaves)  # shown to all
        self._own: dict[bytes, Bitmap] = {}  # what a spreader is shown, the shared ones included
        self._returned: set[int] = set()
        self._began_at: float | None = None
        self._served = 0

    @property
    def is_over(self) -> bool:
        """Every leaf has left once."""
        return len(self._taken) == self._leaves

    def visible(self, peer: bytes, among: int, now: float) -> Bitmap:
        """What to show a peer; `among`: how many peers there are to spread leaves."""
        if self._began_at is None:
            self._began_at = now
        if peer not in self._spread and len(self._spread) < SPREADERS:
            self._spread[peer], self._active_at[peer] = set(), now
            self._own[peer] = Bitmap(self._leaves, bytes(self._shared))
        waiting = self._spread.get(peer, set())
        if peer in self._spread and len(waiting) <= self._grant.get(peer, 0) // 2:
            self._give(peer, waiting, min(among, SPREADERS))
        if self.is_over:
            return Bitmap.full(self._leaves)
        return self._own.get(peer, self._shared)

    def _give(self, peer: bytes, waiting: set[int], among: int) -> None:
        count = -(-len(self._pool) // (2 * max(1, among)))
        self._grant[peer] = count
        for _ in range(count):
            waiting.add(index := self._pool.pop())
            self._own[peer].add(index)

    def _share(self, index: int) -> None:
        self._taken[index] = _ALL
        for shown in (self._shared, *self._own.values()):
            shown.add(index)

    def served(self, peer: bytes, index: int, now: float) -> None:
        """A leaf was sent to a peer, or it had it already."""
        self._served += 1
        if peer in self._active_at:
            self._active_at[peer] = now
        self._taken.setdefault(index, peer)
        for waiting in self._spread.values():
            waiting.discard(index)

    def lapse(self, now: float) -> None:
        """Peers that do not come, though it was their turn, make place: our uplink may be slow."""
        patience_s = SEED_PATIENCE_S
        if self._began_at is not None and self._served:
            round_s = len(self._spread) * (now - self._began_at) / self._served
            patience_s += 3 * round_s
        for peer, waiting in list(self._spread.items()):
            if waiting and now - self._active_at[peer] > patience_s:
                self._remove(peer)

    def left(self, peer: bytes) -> None:
        """A peer is gone, and with it what perhaps only it had."""
        if self.is_over:
            return
        self._remove(peer)
        for index in [index for index, taker in self._taken.items() if taker == peer]:
            self._share(index)

    def _remove(self, peer: bytes) -> None:
        self._grant.pop(peer, None)
        self._active_at.pop(peer, None)
        self._own.pop(peer, None)
        for index in self._spread.pop(peer, ()):
            if index in self._returned:
                self._share(index)
            else:
                self._returned.add(index)
                self._pool.append(index)
