"""Named waits: what is waited for, since when, and by when it ends.

A network keeps one `OpenWaits` for what it does itself and what the protocols over it ask of peers;
`node.waits` shows it with the daemon's own. Nothing here ends a wait: who opens one sees to its
deadline.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import trio

Words = str | Callable[[], str]


def said(words: Words) -> str:
    """As they are now."""
    return words if isinstance(words, str) else words()


_numbers = itertools.count()


class Wait(NamedTuple):
    """An open wait. `number` tells it from others of the same name."""

    number: int
    name: str
    waiting_for: Words
    since: float
    timeout_s: float


class OpenWaits:
    def __init__(self) -> None:
        self._open: dict[int, Wait] = {}

    @contextmanager
    def named(self, name: str, waiting_for: Words, timeout_s: float) -> Iterator[None]:
        """Show a wait while the block runs; `waiting_for` may be asked for anew each time it is
        shown."""
        number = next(_numbers)
        self._open[number] = Wait(number, name, waiting_for, trio.current_time(), timeout_s)
        try:
            yield
        finally:
            del self._open[number]

    def open(self) -> list[Wait]:
        """Oldest first."""
        return list(self._open.values())
