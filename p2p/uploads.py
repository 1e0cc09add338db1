"""Uploads: how much a node may send of payloads, on all lanes together (token bucket, quiet hours).

The cap is the user's, or follows what the line was measured to carry (`uplink`).

Senders take what they are about to send and wait until it is allowed: `take` in trio tasks,
`reserve` in threads, which wait in their own way. First come, first served. Callers that can refuse
work look at `why_not` before they begin it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from datetime import datetime

import trio

from primed.p2p.hours import QuietHours
from primed.p2p.uplink import Uplink

BACKLOG_S = 4.0  # what is promised already may take this long; then no new work is begun
BURST_S, BURST_LEAST_BYTES = 0.1, 64 * 1024


class Uploads:
    """`cap_bytes_per_s`: over all lanes, infinite for none; set by `uplink`, if given. `clock` is
    monotonic, `local_time` the wall clock that quiet hours go by."""

    def __init__(
        self,
        cap_bytes_per_s: float = math.inf,
        quiet: QuietHours | None = None,
        *,
        uplink: Uplink | None = None,
        clock: Callable[[], float] = time.monotonic,
        local_time: Callable[[], datetime] = datetime.now,
    ) -> None:
        self.cap_bytes_per_s = cap_bytes_per_s
        self._quiet = quiet
        self._uplink = uplink
        self._clock, self._local_time = clock, local_time
        self._lock = threading.Lock()
        self._burst_bytes = max(BURST_LEAST_BYTES, BURST_S * cap_bytes_per_s)
        self._allowed_bytes = self._burst_bytes  # negative: promised, not yet sent
        self._at = clock()

    def reserve(self, count_bytes: int) -> float:
        """Take this much (or give it back: negative); the seconds to wait before sending it."""
        self._follow_uplink(count_bytes)
        if math.isinf(self.cap_bytes_per_s):
            return 0.0
        with self._lock:
            self._refill()
            self._allowed_bytes -= count_bytes
            return max(0.0, -self._allowed_bytes / self.cap_bytes_per_s)

    async def take(self, count_bytes: int) -> None:
        """Return when this much may be sent."""
        if delay_s := self.reserve(count_bytes):
            await trio.sleep(delay_s)

    def why_not(self, *, is_owed: bool = False) -> tuple[str, float]:
        """Why no upload should begin now, in words, and for how many seconds; ("", 0) if it may.
        is_owed: promised earlier, so that quiet hours do not hold it up."""
        self._follow_uplink(0)
        if (quiet_s := self.quiet_s()) and not is_owed:
            return f"quiet hours ({self._quiet})", quiet_s
        if math.isinf(self.cap_bytes_per_s):
            return "", 0.0
        with self._lock:
            self._refill()
            backlog_s = -self._allowed_bytes / self.cap_bytes_per_s
        if backlog_s > BACKLOG_S:
            return "the upload cap is used up", backlog_s - BACKLOG_S
        return "", 0.0

    def quiet_s(self) -> float:
        """Seconds until quiet hours end; 0 outside of them."""
        return self._quiet.left_s(self._local_time()) if self._quiet else 0.0

    def _follow_uplink(self, count_bytes: int) -> None:
        if self._uplink is None:
            return
        with self._lock:
            now = self._clock()
            if count_bytes:
                self._uplink.sent(count_bytes, now)
            if (cap := self._uplink.cap(now)) != self.cap_bytes_per_s:
                self.cap_bytes_per_s, self._at = cap, now
                self._burst_bytes = max(BURST_LEAST_BYTES, BURST_S * cap)
                self._allowed_bytes = self._burst_bytes

    def _refill(self) -> None:
        now = self._clock()
        earned = (now - self._at) * self.cap_bytes_per_s
        self._allowed_bytes = min(self._burst_bytes, self._allowed_bytes + earned)
        self._at = now
