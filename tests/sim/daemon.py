"""A simulated daemon: the parts of `node.daemon`, over a simulated network and simulated children.

Store, supervisor, hello, joining, participations and roles are the real ones. What is left out is
what a simulation has no use for: the local API, metrics' server, signals.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from functools import partial
from pathlib import Path

import msgspec
import trio

from primed.node.config import Config
from primed.node.doppelganger import Doppelganger, Doubles
from primed.node.invite import Invite
from primed.node.joining import Joining
from primed.node.metrics import Metrics
from primed.node.participation import Participation
from primed.node.paths import Paths
from primed.node.services import Services
from primed.node.store import Store
from primed.node.supervisor import Supervisor
from primed.p2p.bookfile import Rows
from primed.p2p.simnet import Host, SimNetwork, World
from primed.protocols.by_run import RunServers
from primed.protocols.verdicts import Evidence, Verdicts
from primed.verify.runspec import Run

from .cast import Member
from .children import Conduct, spawner
from .watch import Watch, WatchedStore

speaking: ContextVar[str] = ContextVar("speaking", default="")  # whose task logs something


class SimDaemon:
    """One participant's machine. `live` runs a process on it, `end` kills that; its folder stays.
    `on_start`: run as a task of each process."""

    def __init__(
        self,
        world: World,
        member: Member,
        host: Host,
        folder: Path,
        seed: int,
        conduct: Conduct,
        watch: Watch,
    ) -> None:
        self.world = world
        self.member = member
        self.host = host
        self.paths = Paths(folder)
        self.paths.create()
        self.lives = 0
        self.services: Services | None = None
        self.joining: Joining | None = None
        self.on_start: Callable[[SimDaemon], Awaitable[None]] | None = None
        self._conduct = conduct
        self._watch = watch
        self._rng = random.Random(f"{seed} {member.name}")
        self._sessions: list[bytes] = []
        self._scope = trio.CancelScope()
        self._remembered: Rows | None = None
        self._ended = trio.Event()

    @property
    def is_up(self) -> bool:
        return self.host.network is not None

    @property
    def network(self) -> SimNetwork:
        assert self.host.network is not None
        return self.host.network

    def part(self, run_id: bytes) -> Participation | None:
        """What the running process takes part in."""
        return self.joining.parts.get(run_id) if self.is_up and self.joining else None

    async def live(self, bootstrap: Sequence[str], run_id: bytes) -> None:
        """A process from start to end."""
        self.lives += 1
        self._ended = trio.Event()
        speaking.set(self.member.name)
        store = WatchedStore(self.paths.database, self.member.peer, self._watch)
        try:
            with trio.CancelScope() as self._scope:
                await self._serve(store, bootstrap, run_id)
        finally:
            self.services = self.joining = None
            store.close()
            self._ended.set()

    async def end(self) -> None:
        """As kill -9: what was synced stays, what was not sent never is."""
        if (network := self.host.network) is not None:
            self._remembered = network.memory()
            self.world.trace.note(self.member.name, "killed")
            network.stop()
            self._scope.cancel()
            await self._ended.wait()

    async def _serve(self, store: Store, bootstrap: Sequence[str], run_id: bytes) -> None:
        network = SimNetwork(self.world, self.host, remembered=self._remembered)
        services = self.services = self._build(store, network)
        Verdicts(network, partial(_evidence, store))
        session = self._rng.randbytes(16)
        doubles = Doubles(session, self._sessions)
        self._sessions.append(session)
        async with trio.open_nursery() as nursery:
            joining = self.joining = Joining(services, nursery, session, doubles)
            async with services.supervisor.running(), network.running([], bootstrap):
                if self.on_start is not None:
                    nursery.start_soon(self.on_start, self)
                nursery.start_soon(services.keep_running, "hello", joining.hello.run)
                self._look_for_doubles(nursery, joining, doubles)
                await joining.rejoin()
                if run_id not in joining.parts:
                    invite = Invite(run_id, tuple(bootstrap))
                    nursery.start_soon(joining.join_invited, invite)
                await trio.sleep_forever()

    def _look_for_doubles(self, nursery: trio.Nursery, joining: Joining, doubles: Doubles) -> None:
        """Before anything is signed, as the daemon does."""
        services, network = self.services, self.network
        assert services is not None
        double = Doppelganger(
            joining.hello,
            doubles,
            services.waits,
            services.problems,
            network.peer,
            services.alone,
        )

        def is_alone() -> bool:
            return network.state()[0] == "alone"

        async def make_sure() -> None:
            await double.make_sure(
                network.connected, network.meet_nearest, is_alone, services.wall_clock
            )

        nursery.start_soon(double.watch)
        nursery.start_soon(services.keep_running, "doppelganger", make_sure)

    def _build(self, store: Store, network: SimNetwork) -> Services:
        spawn = spawner(random.Random(self._rng.random()), self._conduct)
        is_relay = self.member.role == "relay"
        return Services(
            config=Config(data_dir=self.paths.root, roles=("relay",) if is_relay else ("auto",)),
            paths=self.paths,
            identity=self.member.identity,
            store=store,
            network=network,
            servers=RunServers(network),
            supervisor=Supervisor(self.paths.logs, spawn=spawn),
            metrics=Metrics(),
            wall_clock=partial(self.world.unix_ms, self.member.peer),
        )


def found(daemon: SimDaemon, run: Run, base: Path) -> None:
    """Have an originator's machine hold its run, as `Joining.publish` leaves it."""
    folder = daemon.paths.run(run.run_id)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    base.rename(folder / "base.safetensors")
    store = Store(daemon.paths.database)
    store.runs.add(run.run_id, run.signed, 0)
    store.runs.join(run.run_id, ("auto",), 0)
    store.close()


def _evidence(store: Store, run: bytes, commitment: bytes) -> Evidence | None:
    kept = store.evidence.about(run, commitment)
    return msgspec.msgpack.decode(kept[-1], type=Evidence) if kept else None
