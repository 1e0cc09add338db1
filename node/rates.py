"""How fast bytes have come and gone: the highest mean since the start, a lower bound of what the
line can do. Pure: totals and times are passed in. Traffic between daemons of one machine says
nothing about its line, so the caller tells when it is only that."""

from __future__ import annotations

WINDOW_S = 10.0


class Rates:
    """peak_received, peak_sent: bytes a second."""

    def __init__(self) -> None:
        self.peak_received = 0.0
        self.peak_sent = 0.0
        self._last: tuple[float, int, int] | None = None

    def observe(self, received_bytes: int, sent_bytes: int, now: float, *, counts: bool) -> None:
        """Totals as of now; means are taken over WINDOW_S or more."""
        if self._last is None:
            self._last = (now, received_bytes, sent_bytes)
        since, received, sent = self._last
        if now - since < WINDOW_S:
            return
        if counts:
            self.peak_received = max(
                self.peak_received, (received_bytes - received) / (now - since)
            )
            self.peak_sent = max(self.peak_sent, (sent_bytes - sent) / (now - since))
        self._last = (now, received_bytes, sent_bytes)
