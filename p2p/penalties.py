"""Scores of peers: points go down by penalties and recover with a half-life. Pure: time comes in.

At -20 a peer is disconnected, at -50 banned for 12 hours (docs/protocol.md, "Penalties"). Scores
outlive connections, and restarts by `rows`. The table is bounded: the least interesting scores are forgotten
first, never a ban before a mere score.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from primed.p2p import limits


class Consequence(Enum):
    """What a penalty leads to."""

    NONE = "none"
    DISCONNECT = "disconnect"
    BAN = "ban"


class ScoreRow(NamedTuple):
    """What a file keeps of a score; the first field is the key, times are wall times."""

    peer: bytes
    score: float
    at_unix_s: float
    banned_until_unix_s: float


@dataclass
class _Entry:
    score: float
    at_s: float
    banned_until_s: float = float("-inf")


class Scores:
    """Score by peer id, 0 for strangers, never above 0. `now_s` is any monotonic clock."""

    def __init__(self, *, capacity: int = limits.SCORES_KEPT) -> None:
        self._entries: dict[bytes, _Entry] = {}
        self._capacity = capacity

    def score(self, peer: bytes, now_s: float) -> float:
        entry = self._entries.get(peer)
        if entry is None:
            return 0.0
        elapsed = max(0.0, now_s - entry.at_s)
        return float(entry.score * 0.5 ** (elapsed / limits.SCORE_HALF_LIFE_S))

    def penalise(self, peer: bytes, points: int, now_s: float) -> Consequence:
        """Take points (>= 0) off a peer's score and say what follows."""
        if points < 0:
            raise ValueError("a penalty has no negative points")
        if peer not in self._entries and len(self._entries) >= self._capacity:
            self._forget(now_s)
        score = self.score(peer, now_s) - points
        entry = self._entries.setdefault(peer, _Entry(0.0, now_s))
        entry.score, entry.at_s = score, now_s
        if score <= limits.SCORE_BAN:
            entry.banned_until_s = now_s + limits.BAN_S
            return Consequence.BAN
        return Consequence.DISCONNECT if score <= limits.SCORE_DISCONNECT else Consequence.NONE

    def is_banned(self, peer: bytes, now_s: float) -> bool:
        entry = self._entries.get(peer)
        return entry is not None and now_s < entry.banned_until_s

    def rows(self, now_s: float, unix_s: float) -> set[ScoreRow]:
        """For the file: all that still matters. `unix_s` is the wall time of `now_s`."""
        wall = round(unix_s - now_s, 1)  # else equal rows would differ by the clocks' noise
        return {
            ScoreRow(peer, entry.score, entry.at_s + wall, max(0.0, entry.banned_until_s + wall))
            for peer, entry in self._entries.items()
            if self.score(peer, now_s) < -0.5 or now_s < entry.banned_until_s
        }

    def add_rows(self, rows: Iterable[ScoreRow], now_s: float, unix_s: float) -> None:
        """Take over an earlier life's scores. A wall clock that was set back meanwhile lengthens
        no ban."""
        wall = unix_s - now_s
        for row in list(rows)[: self._capacity]:
            at_s = min(now_s, row.at_unix_s - wall)
            until_s = min(now_s + limits.BAN_S, row.banned_until_unix_s - wall)
            self._entries[row.peer] = _Entry(min(0.0, row.score), at_s, until_s)

    def _forget(self, now_s: float) -> None:
        """Drop the better half: those without a ban first, then the highest scores."""
        worst_last = sorted(
            self._entries, key=lambda peer: (self.is_banned(peer, now_s), -self.score(peer, now_s))
        )
        for peer in worst_last[: max(1, self._capacity // 2)]:
            del self._entries[peer]
