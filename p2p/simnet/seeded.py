"""Virtual time, and an order of tasks that is a function of a seed.

Trio shuffles the tasks that are ready at one moment. Its own plugin for Hypothesis makes that
shuffle repeatable (`trio._core._run._hypothesis_plugin_setup`); this does the same for one run and
puts everything back. There is no public way (trio 0.35).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio
from trio._core import _run as scheduler
from trio.testing import MockClock

T = TypeVar("T")


def run(main: Callable[..., Awaitable[T]], *args: Any, seed: int) -> T:
    """The result of `main(*args)`. Waiting costs no time: the clock jumps to the next deadline
    whenever every task waits. `main` must use no threads and no real clock."""
    was_sorted, state = scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r.getstate()
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    scheduler._r.seed(seed)
    try:
        return trio.run(main, *args, clock=MockClock(autojump_threshold=0))
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = was_sorted  # type: ignore[misc]
        scheduler._r.setstate(state)
