"""Blocking file and database work off the trio loop, with its own bounded pool of threads.

A call that has started runs to its end even if its caller is cancelled: nothing is half-written
behind the back of the code that follows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import trio

from primed.protocols.limits import DISK_THREADS

P = ParamSpec("P")
T = TypeVar("T")

_threads = trio.CapacityLimiter(DISK_THREADS)


async def on_disk(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The function's result, or its exception, from a disk thread."""
    return await trio.to_thread.run_sync(lambda: function(*args, **kwargs), limiter=_threads)
