"""Named waits, and waking up when a run's state changes.

Every wait of the daemon goes through here, so that `primed status --waits` can show what is waited
for and until when, and the watchdog can tell one that never ends. `Changes` is the only signal
between a run's event handlers and its roles: handlers notify, roles look again at the state they
need.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import trio

from primed.node.views import WaitView

T = TypeVar("T")
Words = str | Callable[[], str]


@dataclass(frozen=True)
class Wait:
    """An open wait. `number` tells it from others of the same name."""

    number: int
    name: str
    waiting_for: Words
    since: float
    timeout_s: float

    def view(self, now: float) -> WaitView:
        words = self.waiting_for
        return WaitView(
            name=self.name,
            waiting_for=words if isinstance(words, str) else words(),
            since_s=round(now - self.since, 2),
            deadline_s=round(self.since + self.timeout_s - now, 2),
        )


class Waits:
    """The open waits of this daemon: those of its tasks, and those that other parts tell of."""

    def __init__(self) -> None:
        self._open: dict[int, Wait] = {}
        self._ids = itertools.count()
        self._sources: list[Callable[[], Iterable[WaitView]]] = []

    @contextmanager
    def named(self, name: str, waiting_for: Words, timeout_s: float) -> Iterator[None]:
        """Show a wait while the block runs; `waiting_for` may be asked for anew each time it is
        shown. Ends nothing by itself: see `Changes.until`."""
        key = next(self._ids)
        self._open[key] = Wait(key, name, waiting_for, trio.current_time(), timeout_s)
        try:
            yield
        finally:
            del self._open[key]

    def include(self, source: Callable[[], Iterable[WaitView]]) -> None:
        """Show what this tells, too: waits whose deadlines are kept elsewhere."""
        self._sources.append(source)

    def views(self) -> tuple[WaitView, ...]:
        now = trio.current_time()
        own = [wait.view(now) for wait in self._open.values()]
        return (*own, *(view for source in self._sources for view in source()))

    def open(self) -> list[Wait]:
        """The waits of this daemon's own tasks, oldest first."""
        return list(self._open.values())


class Changes:
    """Wakes everyone who waits for a run's state to change."""

    def __init__(self, waits: Waits) -> None:
        self._waits = waits
        self._event = trio.Event()

    def apart(self) -> Changes:
        """Other changes, whose waits are shown among the same."""
        return Changes(self._waits)

    def notify(self) -> None:
        self._event.set()
        self._event = trio.Event()

    async def until(
        self, look: Callable[[], T | None], name: str, waiting_for: Words, timeout_s: float
    ) -> T | None:
        """The first result of `look` that is not None; looks again after each change and once a
        second (deadlines pass without an event). None when timeout_s is over."""
        deadline = trio.current_time() + timeout_s
        with self._waits.named(name, waiting_for, timeout_s):
            while True:
                now = trio.current_time()
                with trio.move_on_at(min(deadline, now + 1.0)):
                    while True:
                        event = self._event
                        if (found := look()) is not None:
                            return found
                        await event.wait()
                if now >= deadline:
                    return None
