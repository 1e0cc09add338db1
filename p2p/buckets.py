"""Token buckets: who asks too often waits, and is not told off. Pure: the time is passed in."""

from __future__ import annotations


class TokenBucket:
    """`burst` at once, then `per_s`."""

    def __init__(self, burst: float, per_s: float, now_s: float) -> None:
        self._burst, self._per_s = burst, per_s
        self._tokens, self._at_s = burst, now_s

    def delay(self, now_s: float, cost: float = 1.0) -> float:
        """Take so many tokens; the seconds until they are there, 0 while the burst lasts."""
        refilled = self._tokens + (now_s - self._at_s) * self._per_s
        self._tokens = min(self._burst, refilled) - cost
        self._at_s = now_s
        return max(0.0, -self._tokens / self._per_s)

    def take(self, now_s: float, cost: float = 1.0) -> bool:
        """Take so many tokens only if they are there."""
        if self.delay(now_s, 0.0) or self._tokens < cost:
            return False
        self._tokens -= cost
        return True
