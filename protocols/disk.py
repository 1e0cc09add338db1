"""Blocking file and database work off the trio loop, with its own bounded pool of threads.

A call that has started runs to its end even if its caller is cancelled: nothing is half-written
behind the back of the code that follows. A simulation, whose time does not pass while threads work,
does it `inline`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

import trio

from primed.protocols.limits import DISK_THREADS

P = ParamSpec("P")
T = TypeVar("T")

_threads = trio.CapacityLimiter(DISK_THREADS)
_is_inline = ContextVar("is_inline", default=False)


@contextmanager
def inline() -> Iterator[None]:
    """No threads for calls made inside, and in tasks that are started inside."""
    token = _is_inline.set(True)
    try:
        yield
    finally:
        _is_inline.reset(token)


async def on_disk(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The function's result, or its exception, from a disk thread."""
    if _is_inline.get():
        await trio.lowlevel.checkpoint_if_cancelled()
        return function(*args, **kwargs)
    return await trio.to_thread.run_sync(lambda: function(*args, **kwargs), limiter=_threads)
