"""Named waits, and waking up when a run's state changes.

Every wait of the daemon goes through here, so that `primed status --waits` can show what is waited
for and until when. `Changes` is the only signal between a run's event handlers and its roles:
handlers notify, roles look again at the state they need.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import trio

from primed.node.views import WaitView

T = TypeVar("T")


@dataclass(frozen=True)
class _Wait:
    name: str
    waiting_for: str
    since: float
    deadline: float


class Waits:
    """The open waits of this daemon."""

    def __init__(self) -> None:
        self._open: dict[int, _Wait] = {}
        self._ids = itertools.count()

    @contextmanager
    def named(self, name: str, waiting_for: str, timeout_s: float) -> Iterator[None]:
        """Show a wait while the block runs. Ends nothing by itself: see `Changes.until`."""
        key, now = next(self._ids), trio.current_time()
        self._open[key] = _Wait(name, waiting_for, now, now + timeout_s)
        try:
            yield
        finally:
            del self._open[key]

    def views(self) -> tuple[WaitView, ...]:
        now = trio.current_time()
        return tuple(
            WaitView(
                name=wait.name,
                waiting_for=wait.waiting_for,
                since_s=round(now - wait.since, 2),
                deadline_s=round(wait.deadline - now, 2),
            )
            for wait in self._open.values()
        )


class Changes:
    """Wakes everyone who waits for a run's state to change."""

    def __init__(self, waits: Waits) -> None:
        self._waits = waits
        self._event = trio.Event()

    def notify(self) -> None:
        self._event.set()
        self._event = trio.Event()

    async def until(
        self, look: Callable[[], T | None], name: str, waiting_for: str, timeout_s: float
    ) -> T | None:
        """The first result of `look` that is not None; looks again after each change and once a
        second (deadlines pass without an event). None when timeout_s is over."""
        deadline = trio.current_time() + timeout_s
        with self._waits.named(name, waiting_for, timeout_s):
            while True:
                event = self._event
                if (found := look()) is not None:
                    return found
                left = deadline - trio.current_time()
                if left <= 0:
                    return None
                with trio.move_on_after(min(left, 1.0)):
                    await event.wait()
