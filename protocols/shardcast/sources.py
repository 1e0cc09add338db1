"""Source: what a download knows of one peer. Pure; used by `machine`.

How fast it is: leaves a second, as an average that forgets (a request waits in the peer's queue with
those of others, so this measures our share of its uplink). How well it answers: the share of
requests that brought something, in the same way. Their product orders sources.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from primed.protocols.limits import (
    ASK_AHEAD_S,
    ASK_TIMEOUT_S,
    FIRST_ANSWER_S,
    LEAVES_PER_REQUEST,
    SOURCE_RETRY_S,
    STUCK_S,
)
from primed.protocols.shardcast.bitmap import Bitmap

REQUESTS = 2  # under way to one source, so that it never waits for the next
NEWEST = 0.3  # share of the newest request in the averages
SLOWEST_RETRY = 16  # the pause after failures doubles up to this many SOURCE_RETRY_S
LATE = 5.0  # times the expected pause between two leaves


@dataclass
class Source:
    """have: what it told, less what it turned out to lack. asked: leaf -> when it was asked for."""

    have: Bitmap
    is_known: bool = False  # it has told what it has
    is_strange: bool = False  # it knows nothing of the payload
    is_dry: bool = False  # nothing that is free to ask for, until something changes
    widest: int = LEAVES_PER_REQUEST
    asked: dict[int, float] = field(default_factory=dict)
    requests: int = 0
    asked_have_at: float = -1e9
    heard_at: float = -1e9  # when it sent a leaf
    announced_at: float = -1e9
    waits_for_have: bool = False
    rests_until: float = -1e9
    failures: int = 0
    lies: int = 0
    rate: float | None = None
    success: float = 1.0
    answered_at: float = -1e9

    def merit(self) -> float:
        """Expected leaves a second; a source that was never tried comes first."""
        return math.inf if self.rate is None else self.rate * self.success

    def room(self) -> int:
        """How many more leaves to ask it for now."""
        width = 1
        if self.rate is not None:
            width = max(1, min(self.widest, math.ceil(self.rate * ASK_AHEAD_S)))
        is_low = self.requests < REQUESTS and len(self.asked) <= width // 2
        return width - len(self.asked) if is_low else 0

    def answered(self, leaves: int, asked_at: float, now: float) -> None:
        """A request has ended with so many leaves."""
        self.success += NEWEST * ((leaves > 0) - self.success)
        if leaves:
            rate = leaves / max(now - max(asked_at, self.answered_at), 1e-3)
            self.rate = rate if self.rate is None else self.rate + NEWEST * (rate - self.rate)
            self.failures = 0
        self.answered_at = now

    def failed(self, now: float) -> None:
        """It rests, longer each time."""
        self.rests_until = now + SOURCE_RETRY_S * min(2**self.failures, SLOWEST_RETRY)
        self.failures = min(self.failures + 1, SLOWEST_RETRY)

    def is_silent(self, now: float) -> bool:
        """A request has waited too long for any leaf."""
        since = max(min(self.asked.values(), default=now), self.heard_at)
        return now - since > ASK_TIMEOUT_S

    def is_late(self, index: int, now: float) -> bool:
        """It was asked for this leaf and sends nothing, while others do."""
        patience_s = max(STUCK_S, LATE / self.rate) if self.rate else FIRST_ANSWER_S
        return now - max(self.asked[index], self.heard_at) > min(patience_s, ASK_TIMEOUT_S)
