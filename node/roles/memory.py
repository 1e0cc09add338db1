"""How much a child computes at once: half of it after each out-of-memory, and the same work again.

A step or batch means the same whatever is computed at once, so a smaller card gives the same
contribution, only slower. Three failures of one piece of work are enough: then the role stops.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec
import structlog

from primed.node.child import Child
from primed.node.child_stops import ChildFailed
from primed.training.messages import Request

R = TypeVar("R", bound=msgspec.Struct)

FAILURES_MAX = 3
_log = structlog.get_logger("primed.memory")


class OutOfMemory(Exception):
    """This machine's memory is too small for the role; the message says how that was found."""


class Portion:
    """`size` (rows, tokens) is computed at once. What was halved stays so while the daemon runs."""

    def __init__(self, size: int) -> None:
        self.size = size

    async def ask(
        self,
        child: Child,
        make: Callable[[int], Request],
        expect: type[R],
        *,
        timeout_s: float,
        name: str,
    ) -> R:
        """`child.ask(make(size), …)`, again with half the size while memory runs out.
        Raises OutOfMemory after the third time, and ChildFailed for everything else."""
        failures = 0
        while True:
            try:
                return await child.ask(make(self.size), expect, timeout_s=timeout_s, name=name)
            except ChildFailed as error:
                if error.kind != "oom":
                    raise
                failures += 1
                if failures == FAILURES_MAX:
                    text = f"out of memory {failures} times with {name}, last: {error.message}"
                    raise OutOfMemory(text) from error
                self.size = max(1, self.size // 2)
                _log.warning("out of memory", work=name, next_size=self.size, reason=error.message)
