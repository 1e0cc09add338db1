"""Owns the child processes: starts them, keeps them going, ends them, and tells how they are.

One task a child (`node.child`), all under one nursery. Every stop is logged and counted here, in
the words that `primed status` uses. Called by the daemon; the roles hold the `Child` they asked for.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
import trio

from primed.node.child import Child
from primed.node.child_link import COMMAND, Spawn, spawn
from primed.node.child_stops import ChildFailed, Policy, Stop
from primed.node.views import ChildView, WaitView
from primed.p2p.errors import LocalError
from primed.training.messages import Configure

__all__ = ["Child", "ChildFailed", "Policy", "Stop", "Supervisor"]

_log = structlog.get_logger("primed.supervisor")


class Supervisor:
    """`async with supervisor.running(): child = supervisor.start(...)`."""

    def __init__(
        self,
        logs_dir: Path,
        *,
        policy: Policy | None = None,
        command: Sequence[str] = COMMAND,
        spawn: Spawn = spawn,
        on_stop: Callable[[Child, Stop], None] | None = None,
    ) -> None:
        self._logs_dir = logs_dir
        self._policy = policy or Policy()
        self._command = tuple(command)
        self._spawn = spawn
        self._told = on_stop
        self.on_no_room: Callable[[], None] = _ignore  # a child had no room on the disk
        self._children: dict[str, Child] = {}
        self._nursery: trio.Nursery | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Supervisor]:
        """Children live while this is entered; leaving it ends and reaps every one."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                yield self
            finally:
                self._nursery = None
                for child in tuple(self._children.values()):
                    child.stop()

    def start(self, name: str, configure: Configure) -> Child:
        """A new child; returns before it is ready. Raises LocalError for a name in use."""
        if self._nursery is None:
            raise LocalError("the supervisor is not running")
        if (old := self._children.get(name)) is not None and not old.is_hopeless():
            raise LocalError(f"there is a child {name} already")
        log_path = self._logs_dir / f"{name}.log"
        start = functools.partial(self._spawn, self._command, configure.threads, log_path)
        child = Child(name, configure, start, self._policy, self._record, self._note_no_room)
        self._children[name] = child
        self._nursery.start_soon(self._keep, child)
        return child

    async def _keep(self, child: Child) -> None:
        try:
            await child.serve_forever()
        finally:
            if not child.is_hopeless():  # that one stays, for status
                del self._children[child.name]

    def _record(self, child: Child, stop: Stop) -> None:
        _log.warning("child stopped", child=child.name, kind=stop.kind, reason=stop.reason)
        if self._told is not None:
            self._told(child, stop)

    def _note_no_room(self) -> None:
        self.on_no_room()

    def status(self) -> list[ChildView]:
        now = trio.current_time()
        return [child.view(now) for child in self._children.values()]

    def waits(self) -> list[WaitView]:
        """The requests that children are on, and restarts to come."""
        now = trio.current_time()
        return [wait for child in self._children.values() for wait in child.waits(now)]


def _ignore() -> None:
    """Until somebody wants to know."""
