"""A child across its restarts: requests go in by `ask`, one incarnation after another serves them.

All bytes to and from the process pass through the child's own task (`serve_forever`, run by the
supervisor), so that a caller may be cancelled at any time and the connection stays sound. Whatever
ends an incarnation becomes a `Stop`: its kind decides about a restart, its sentence is what log,
metric and `primed status` say.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
import trio

from primed.node.child_link import BrokenLink, Link
from primed.node.child_stops import ChildFailed, Policy, Stop, stop_of, stop_of_failure
from primed.node.views import ChildState, ChildView, WaitView
from primed.training.messages import (
    HEARTBEAT_S,
    Configure,
    Failed,
    Heartbeat,
    Ready,
    Reply,
    Request,
)

R = TypeVar("R", bound=msgspec.Struct)

WAITING_MAX = 16  # requests queued for one child
_IDLE = Heartbeat(busy_with="", busy_s=0.0)


class _Errand:
    """One request on its way through a child."""

    def __init__(self, request: Request, name: str, timeout_s: float) -> None:
        self.request = request
        self.name = name
        self.timeout_s = timeout_s
        self.is_wanted = True
        self.begun = trio.Event()
        self.done = trio.Event()
        self.since = trio.current_time()
        self.outcome: Reply | ChildFailed | None = None

    def finish(self, outcome: Reply | ChildFailed) -> None:
        """The first outcome counts."""
        if not self.done.is_set():
            self.outcome = outcome
            self.done.set()


class Child:
    """Made by `Supervisor.start`; used by the roles through `ready` and `ask`."""

    def __init__(
        self,
        name: str,
        configure: Configure,
        spawn: Callable[[], Awaitable[Link]],
        policy: Policy,
        on_stop: Callable[[Child, Stop], None],
        on_no_room: Callable[[], None],
    ) -> None:
        self.name = name
        self.configure = configure
        self.capabilities: Ready | None = None  # as of the last start
        self.restarts = 0
        self.last_stop: Stop | None = None
        self._spawn = spawn
        self._policy = policy
        self._on_stop = on_stop
        self._on_no_room = on_no_room
        self._state: ChildState = "starting"
        self._link: Link | None = None
        self._current: _Errand | None = None
        self._ids = configure.id
        self._put, self._take = trio.open_memory_channel[_Errand](WAITING_MAX)
        self._changed = trio.Event()  # set and replaced at each change of state
        self._scope = trio.CancelScope()
        self._stop: Stop | None = None  # what ends the present incarnation
        self._lived_s = 0.0  # how long the last incarnation ran
        self._heartbeats = 0
        self._reported = _IDLE
        self._restart_at = 0.0

    # ---- for the roles ---------------------------------------------------------------------

    async def ready(self, timeout_s: float) -> Ready:
        """What the child said when it came up. Raises ChildFailed after timeout_s, or as soon as
        it is clear that it will not come up."""
        with trio.move_on_after(timeout_s):
            while self._state != "ready" or self.capabilities is None:
                if self._state in ("failed", "stopped"):
                    raise ChildFailed(
                        "bad_config", f"{self.name} {self._reason() or 'was stopped'}"
                    )
                await self._changed.wait()
            return self.capabilities
        why = self._reason() or "is still starting"
        raise ChildFailed("unavailable", f"{self.name} {why}; not ready after {timeout_s:.0f} s")

    async def ask(self, request: Request, expect: type[R], *, timeout_s: float, name: str) -> R:
        """Have a request served (its id is set here); the reply must be an `expect`.

        Waits at most timeout_s for its turn, then at most timeout_s for the reply, after which the
        child is ended and restarted, since it cannot be interrupted. `name` is what status shows.
        A cancelled caller leaves the request running. Raises ChildFailed.
        """
        if self._state in ("failed", "stopped"):
            raise ChildFailed("unavailable", f"{self.name} {self._reason() or 'was stopped'}")
        errand = _Errand(request, name, timeout_s)
        try:
            self._put.send_nowait(errand)
        except trio.WouldBlock:
            raise ChildFailed("unavailable", f"{self.name} has too many requests waiting") from None
        try:
            await self._outcome_of(errand)
        finally:
            errand.is_wanted = False
        if isinstance(errand.outcome, ChildFailed):
            raise errand.outcome
        if isinstance(errand.outcome, Failed):
            if errand.outcome.kind == "disk":
                self._on_no_room()
            raise ChildFailed(errand.outcome.kind, errand.outcome.message)
        if not isinstance(errand.outcome, expect):
            raise ChildFailed("bug", f"answered {name} with a {type(errand.outcome).__name__}")
        return errand.outcome

    async def _outcome_of(self, errand: _Errand) -> None:
        with trio.move_on_after(errand.timeout_s):
            await errand.begun.wait()
        if not errand.begun.is_set():
            why = self._reason() or "is busy"
            text = f"{self.name} {why}; {errand.name} got no turn in {errand.timeout_s:.0f} s"
            raise ChildFailed("unavailable", text)
        await errand.done.wait()  # bounded: _exchange finishes it or the incarnation ends

    def stop(self) -> None:
        """End it for good. Returns at once; the supervisor waits for the process."""
        self._scope.cancel()

    def is_hopeless(self) -> bool:
        """Whether a restart would end in the same way."""
        return self.last_stop is not None and self.last_stop.kind == "bad_config"

    def view(self, now: float) -> ChildView:
        errand, link = self._current, self._link
        is_busy = errand is not None and self._state == "ready"
        return ChildView(
            name=self.name,
            kind=self.configure.kind,
            run=self.configure.run_id.hex(),
            pid=link.pid if link else None,
            state="busy" if is_busy else self._state,
            busy_with=errand.name if errand else self._reported.busy_with,
            busy_s=now - errand.since if errand else self._reported.busy_s,
            restarts=self.restarts,
            reason=self._reason(),
            restart_in_s=max(0.0, self._restart_at - now) if self._state == "restarting" else 0.0,
        )

    def waits(self, now: float) -> list[WaitView]:
        """The request it is on, or its next start, as a named wait."""
        if (errand := self._current) is not None:
            spent = now - errand.since
            left = round(max(0.0, errand.timeout_s - spent), 2)
            name, since = errand.name, round(spent, 2)
            return [WaitView(name=name, waiting_for=self.name, since_s=since, deadline_s=left)]
        if self._state == "restarting":
            left = round(max(0.0, self._restart_at - now), 2)
            name, why = f"restart of {self.name}", f"its pause: it {self._reason()}"
            return [WaitView(name=name, waiting_for=why, since_s=0.0, deadline_s=left)]
        return []

    def _reason(self) -> str:
        return self.last_stop.reason if self.last_stop else ""

    # ---- its task --------------------------------------------------------------------------

    async def serve_forever(self) -> None:
        """Incarnations one after another, until `stop` or a bad configuration."""
        pause_s = self._policy.first_pause_s
        try:
            with self._scope:
                while await self._live_once():
                    if self._lived_s > self._policy.forgiven_after_s:
                        pause_s = self._policy.first_pause_s
                    self._restart_at = trio.current_time() + pause_s
                    self._enter("restarting")
                    await trio.sleep(pause_s)
                    pause_s = min(2 * pause_s, self._policy.longest_pause_s)
                    self.restarts += 1
        finally:
            self._enter("failed" if self.is_hopeless() else "stopped")
            self._refuse_all()

    async def _live_once(self) -> bool:
        """One incarnation. Whether another should follow."""
        born = trio.current_time()
        self._stop, self._reported, self._lived_s = None, _IDLE, 0.0
        self._enter("starting")
        try:
            self._link = await self._spawn()
        except OSError as error:
            self._record(Stop("crash", f"could not be started: {error}"))
            return True
        try:
            await self._serve(self._link)
        finally:
            await self._bury(self._link)
            self._lived_s = trio.current_time() - born
        return not self.is_hopeless()

    async def _serve(self, link: Link) -> None:
        async with trio.open_nursery() as nursery:
            for task in (self._read, self._feed, self._watch):
                nursery.start_soon(self._until_stop, task, link, nursery.cancel_scope)

    async def _until_stop(
        self,
        task: Callable[[Link], Awaitable[Stop]],
        link: Link,
        scope: trio.CancelScope,
    ) -> None:
        try:
            stop = await task(link)
        except BrokenLink as error:
            stop = stop_of(await link.exited(1.0), str(error))
        self._stop = self._stop or stop
        scope.cancel()

    async def _bury(self, link: Link) -> None:
        """End the process, and tell whoever still waits for it."""
        await link.end(0.0 if self._stop and self._stop.kind == "hang" else self._policy.grace_s)
        self._link = None
        if self._stop is not None:
            self._record(self._stop)
        if (errand := self._current) is not None:
            self._current = None
            stop = self._stop or Stop("crash", "was stopped")
            errand.finish(ChildFailed(stop.kind, f"{self.name} {stop.reason}"))

    def _record(self, stop: Stop) -> None:
        self.last_stop = stop
        self._on_stop(self, stop)

    def _enter(self, state: ChildState) -> None:
        self._state = state
        self._changed.set()
        self._changed = trio.Event()

    def _refuse_all(self) -> None:
        why = self._reason() if self.is_hopeless() else "was stopped"
        while True:
            try:
                errand = self._take.receive_nowait()
            except trio.WouldBlock:
                return
            errand.begun.set()
            errand.finish(ChildFailed("unavailable", f"{self.name} {why}"))

    # ---- the three tasks of an incarnation: each returns why it ended -----------------------

    async def _read(self, link: Link) -> Stop:
        while True:
            message = await link.receive()
            self._heartbeats += 1
            if isinstance(message, Heartbeat):
                self._reported = message
            elif (errand := self._current) is None or message.id != errand.request.id:
                return Stop("crash", "answered a request that was not made")
            else:
                self._current = None
                errand.finish(message)
                if isinstance(message, Failed) and message.fatal:
                    return stop_of_failure(message)

    async def _feed(self, link: Link) -> Stop:
        hello = _Errand(self.configure, "starting", self._policy.ready_s)
        if (stop := await self._exchange(link, hello)) is not None:
            return stop
        if isinstance(hello.outcome, Failed):
            return stop_of_failure(hello.outcome)
        if not isinstance(hello.outcome, Ready):
            return Stop("crash", "did not answer its configuration with Ready")
        self.capabilities = hello.outcome
        self._enter("ready")
        async for errand in self._take:
            if errand.is_wanted and (stop := await self._exchange(link, errand)) is not None:
                return stop
        return Stop("crash", "was closed")

    async def _exchange(self, link: Link, errand: _Errand) -> Stop | None:
        """Serve one errand; a Stop if the child did not answer in time."""
        self._ids += 1
        errand.request = msgspec.structs.replace(errand.request, id=self._ids)
        errand.since = trio.current_time()
        self._current = errand
        errand.begun.set()
        with trio.move_on_after(errand.timeout_s):
            await link.send(errand.request)
            await errand.done.wait()
        if not errand.done.is_set():
            return Stop("hang", f"hung: {errand.name} took more than {errand.timeout_s:.0f} s")
        return None

    async def _watch(self, link: Link) -> Stop:
        """Counts ticks without a heartbeat rather than seconds, so that a daemon that was itself
        held up does not blame its children. A busy child is bounded by its request's deadline."""
        seen, missed = self._heartbeats, 0
        while missed < self._policy.missed_heartbeats:
            await trio.sleep(HEARTBEAT_S)
            is_silent = self._heartbeats == seen and self._current is None
            missed = missed + 1 if is_silent else 0
            seen = self._heartbeats
        return Stop("hang", f"hung: no heartbeat for {missed * HEARTBEAT_S:.0f} s while idle")
