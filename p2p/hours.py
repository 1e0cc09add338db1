"""Quiet hours: the part of the day, by this machine's clock, in which a node uploads no weights.

Pure, and without imports of weight: the settings check the text with it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

_FORM = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)-([01]?\d|2[0-3]):([0-5]\d)")
_DAY_MIN = 24 * 60


@dataclass(frozen=True)
class QuietHours:
    """From `begin_min` until just before `end_min`, minutes of the day; may pass midnight."""

    begin_min: int
    end_min: int

    @classmethod
    def parse(cls, text: str) -> QuietHours:
        """From `22:30-07:00`. Raises ValueError."""
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text[:40]!r} is not like 22:30-07:00")
        hours = [int(part) for part in match.groups()]
        begin, end = hours[0] * 60 + hours[1], hours[2] * 60 + hours[3]
        if begin == end:
            raise ValueError("begins when it ends")
        return cls(begin, end)

    def left_s(self, now: datetime) -> float:
        """Seconds until they end; 0 outside of them. `now` is local time."""
        since_begin = (now.hour * 60 + now.minute - self.begin_min) % _DAY_MIN
        length = (self.end_min - self.begin_min) % _DAY_MIN
        if since_begin >= length:
            return 0.0
        into_minute = timedelta(seconds=now.second, microseconds=now.microsecond)
        return (timedelta(minutes=length - since_begin) - into_minute).total_seconds()

    def __str__(self) -> str:
        return "-".join(f"{at // 60:02}:{at % 60:02}" for at in (self.begin_min, self.end_min))
