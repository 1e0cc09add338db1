"""This machine's clock against its peers', from the times in their records. Pure.

One peer's clock says little; the median of three is believed. A record is dated when it is sent, so
an offset is wrong by at most the way it took.
"""

from __future__ import annotations

from collections import OrderedDict
from statistics import median

PEERS_MAX = 256
BELIEVED_PEERS = 3
TOLERANCE_S = 60.0  # as the protocols allow


class Clocks:
    def __init__(self) -> None:
        self._offsets_s: OrderedDict[bytes, float] = OrderedDict()

    def observe(self, peer: bytes, theirs_unix_ms: int, ours_unix_ms: int) -> None:
        self._offsets_s[peer] = (theirs_unix_ms - ours_unix_ms) / 1000
        self._offsets_s.move_to_end(peer)
        if len(self._offsets_s) > PEERS_MAX:
            self._offsets_s.popitem(last=False)

    def offset_s(self, peer: bytes) -> float | None:
        """The peer's clock less ours."""
        return self._offsets_s.get(peer)

    def median_s(self) -> float | None:
        """Peers' clocks less ours; None while too few peers told theirs."""
        if len(self._offsets_s) < BELIEVED_PEERS:
            return None
        return median(self._offsets_s.values())
