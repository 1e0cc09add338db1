"""What is wrong with this node right now: one sentence each, with what to do.

Whoever notices a problem raises it under a stable name and clears it when it is over; `primed
status` shows the open ones, and each is logged once when it begins and once when it ends.
"""

from __future__ import annotations

import structlog

from primed.node.views import ProblemView

_log = structlog.get_logger("primed.problems")


class Problems:
    def __init__(self) -> None:
        self._open: dict[str, ProblemView] = {}

    def raise_(self, name: str, what: str, fix: str) -> None:
        """Open a problem, or change the words of an open one."""
        if name not in self._open:
            _log.warning("problem", name=name, what=what, fix=fix)
        self._open[name] = ProblemView(name=name, what=what, fix=fix)

    def clear(self, name: str) -> None:
        if self._open.pop(name, None) is not None:
            _log.info("problem over", name=name)

    def views(self) -> tuple[ProblemView, ...]:
        return tuple(self._open.values())
