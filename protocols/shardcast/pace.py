"""Pace: how fast a payload comes in lately, and how long the rest will take. Pure."""

from __future__ import annotations

from collections import deque

SPAN_S = 10.0
SAMPLE_S = 0.5


class Pace:
    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()  # (when, bytes that were here)

    def note(self, here_bytes: int, now: float) -> None:
        """Called at any times, the more often the better."""
        if not self._samples or now - self._samples[-1][0] >= SAMPLE_S:
            self._samples.append((now, here_bytes))
        while now - self._samples[0][0] > SPAN_S:
            self._samples.popleft()

    def bytes_per_s(self, here_bytes: int, now: float) -> float:
        """Over the last SPAN_S."""
        if not self._samples:
            return 0.0
        then, had_bytes = self._samples[0]
        return max(0, here_bytes - had_bytes) / max(now - then, SAMPLE_S)
