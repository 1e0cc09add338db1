"""What this line carries upwards, measured by our own uploads, and how much of it to take. Pure.

While uploads go on without a pause, as fast as peers take them, what is sent is what the line carries.
Such a stretch is measured once; then uploads keep to a share of the best that was seen of late, and
now and then another stretch goes uncapped to measure anew. A peer with a slow line of its own makes
a measure too low, hence the best of several.
"""

from __future__ import annotations

import math
from collections import deque

SHARE = 0.8
WARM_UP_S, STRETCH_S = 2.0, 10.0  # buffers fill first; then a stretch is measured
PAUSE_S = 3.0  # nothing sent for so long: the line was not busy
AGAIN_S = 600.0  # between measures
KEPT = 6  # measures


class Uplink:
    """`least_bytes_per_s`: the lowest cap. `now_s` is any monotonic clock."""

    def __init__(self, least_bytes_per_s: float = 0.0) -> None:
        self._least = least_bytes_per_s
        self._rates: deque[float] = deque(maxlen=KEPT)
        self._again_at_s = -math.inf
        self._since_s = self._last_s = -math.inf
        self._bytes = 0

    def sent(self, count_bytes: int, now_s: float) -> None:
        """So much is handed to the line now. Uncapped stretches without a pause are measured."""
        if not self._is_measuring(now_s):
            return
        if now_s - self._last_s > PAUSE_S:
            self._since_s, self._bytes = now_s + WARM_UP_S, 0
        self._last_s = now_s
        if now_s >= self._since_s:
            self._bytes += count_bytes
        if now_s - self._since_s >= STRETCH_S:
            self._rates.append(self._bytes / (now_s - self._since_s))
            self._again_at_s, self._last_s = now_s + AGAIN_S, -math.inf

    def cap(self, now_s: float) -> float:
        """Bytes a second that uploads may take; infinite while it is being measured."""
        if self._is_measuring(now_s):
            return math.inf
        return max(self._least, SHARE * max(self._rates))

    def _is_measuring(self, now_s: float) -> bool:
        return now_s >= self._again_at_s
