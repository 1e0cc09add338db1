"""What is wrong with this node right now: one sentence each, with what to do.

Whoever notices a problem raises it under a stable name and clears it when it is over; `primed
status` shows the open ones, and each is logged once when it begins and once when it ends.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import structlog

from primed.node.views import ProblemView

_log = structlog.get_logger("primed.problems")


class Problems:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._open: dict[str, ProblemView] = {}
        self._fades_at: dict[str, float] = {}

    def raise_(self, name: str, what: str, fix: str, *, lasts_s: float = math.inf) -> None:
        """Open a problem, or change the words of an open one. It is over when it is cleared, or
        when it was not raised again for lasts_s."""
        if name not in self._open:
            _log.warning("problem", name=name, what=what, fix=fix)
        self._open[name] = ProblemView(name=name, what=what, fix=fix)
        self._fades_at[name] = self._clock() + lasts_s

    def clear(self, name: str) -> None:
        if self._open.pop(name, None) is not None:
            del self._fades_at[name]
            _log.info("problem over", name=name)

    def views(self) -> tuple[ProblemView, ...]:
        for name in [name for name, at in self._fades_at.items() if at < self._clock()]:
            self.clear(name)
        return tuple(self._open.values())
