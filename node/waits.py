"""Named waits, and waking up when a run's state changes.

Every wait of the daemon goes through here, those of its network included, so that `primed status
--waits` can show what is waited for and until when, and the watchdog can tell one that never ends.
`Changes` is the only signal
between a run's event handlers and its roles: handlers notify, roles look again at the state they
need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import trio

from primed.node.views import WaitView
from primed.p2p.waits import OpenWaits, Wait, Words, said

T = TypeVar("T")


class Waits(OpenWaits):
    """The open waits of this daemon: those of its tasks, and those that other parts tell of."""

    def __init__(self) -> None:
        super().__init__()
        self._others: list[OpenWaits] = []
        self._sources: list[Callable[[], Iterable[WaitView]]] = []

    def join(self, other: OpenWaits) -> None:
        """These are of this daemon, too: the network's."""
        self._others.append(other)

    def include(self, source: Callable[[], Iterable[WaitView]]) -> None:
        """Show what this tells, too: waits whose deadlines are kept elsewhere."""
        self._sources.append(source)

    def open(self) -> list[Wait]:
        return [*super().open(), *(wait for other in self._others for wait in other.open())]

    def views(self) -> tuple[WaitView, ...]:
        now = trio.current_time()
        own = [_view(wait, now) for wait in self.open()]
        return (*own, *(view for source in self._sources for view in source()))


def _view(wait: Wait, now: float) -> WaitView:
    return WaitView(
        name=wait.name,
        waiting_for=said(wait.waiting_for),
        since_s=round(now - wait.since, 2),
        deadline_s=round(wait.since + wait.timeout_s - now, 2),
    )


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
