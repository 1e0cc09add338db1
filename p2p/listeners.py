"""Who wants to hear of peers that come and go; one for each implementation of `Network`.

A service subscribes when it is made and never says that it is done. So bound methods are held
weakly: a run's services that were replaced, after a failure say, go when nobody else holds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import MethodType
from weakref import WeakMethod

from primed.p2p.network import PeerListener


class Listeners:
    def __init__(self) -> None:
        self._held: list[Callable[[], PeerListener | None]] = []

    def add(self, listener: PeerListener) -> None:
        held = WeakMethod(listener) if isinstance(listener, MethodType) else lambda: listener
        self._held = [*(each for each in self._held if each() is not None), held]

    def __iter__(self) -> Iterator[PeerListener]:
        """Those that are left, in the order in which they came."""
        return (listener for each in self._held if (listener := each()) is not None)
