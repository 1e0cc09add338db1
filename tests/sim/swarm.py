"""One seed from start to judgement: builds the swarm, breaks it as planned, waits, and judges it."""

from __future__ import annotations

import gc
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import structlog
import trio

from primed.p2p import addresses, peerid
from primed.p2p.simnet import Host, World, run
from primed.protocols import disk
from primed.training import environments
from primed.verify import signing, vrf
from primed.verify.runspec import Run

from .cast import Member, sign_spec
from .daemon import SimDaemon, found, speaking
from .hostile import Loot, conduct_of, task_of
from .invariants import faults_of, why_not_settled
from .plan import Fault, Plan, plan_of
from .watch import Watch

PATIENCE_S = 180.0  # after the last fault, for the swarm to finish its run and agree
LOOK_S = 1.0


@dataclass
class Outcome:
    """What became of a seed. `failures`: broken invariants, "" for none."""

    seed: int
    nodes: int
    failures: list[str]
    unsettled: str
    digest: str  # of the trace
    cpu_s: float
    simulated_s: float
    figures: dict[str, int] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


class Swarm:
    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.world = World(plan.seed, gossip_loss=plan.gossip_loss)
        self.watch = Watch(self.world)
        self.loot = Loot()
        self.ends_s = 0.0
        self.unsettled = ""  # what it still waits for
        rng = random.Random(f"spec {plan.seed}")
        base = folder / "base"
        self.run: Run = sign_spec(plan.cast, base, rng, plan.steps)
        self.daemons = {
            member.name: self._machine(number, member, folder)
            for number, member in enumerate(plan.cast)
        }
        originator = next(d for d in self.daemons.values() if d.member.role == "originator")
        found(originator, self.run, base)

    def _machine(self, number: int, member: Member, folder: Path) -> SimDaemon:
        host = self.world.add(
            Host(
                name=member.name,
                peer=member.peer,
                address=f"/ip4/10.{number}.0.1/tcp/4101",
                access=member.access,
                is_public=member.is_public,
                is_relay=member.role == "relay",
                clock_skew_s=member.clock_skew_s,
            )
        )
        conduct = conduct_of(member.vice, member.child_death, self.loot)
        seed = self.plan.seed
        daemon = SimDaemon(
            self.world, member, host, folder / member.name, seed, conduct, self.watch
        )
        rng = random.Random(f"vice {seed} {member.name}")
        daemon.on_start = task_of(member.vice, self.run.run_id, rng)
        return daemon

    async def play(self) -> None:
        """Until the swarm has settled, or its time is over."""
        with disk.inline():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.world.run)
                for daemon in self.daemons.values():
                    nursery.start_soon(self._start, daemon, daemon.member.joins_at_s)
                for fault in self.plan.faults:
                    nursery.start_soon(self._break, fault, nursery)
                await self._wait()
                self.ends_s = trio.current_time()
                self._note_roles()
                self.failures = faults_of(self)
                for daemon in self.daemons.values():
                    await daemon.end()
                nursery.cancel_scope.cancel()

    async def _start(self, daemon: SimDaemon, after_s: float) -> None:
        await trio.sleep(after_s)
        known = [self.daemons[name].host for name in daemon.member.bootstrap]
        bootstrap = [f"{host.address}/p2p/{peerid.to_text(host.peer)}" for host in known]
        await daemon.live(bootstrap, self.run.run_id)

    async def _break(self, fault: Fault, nursery: trio.Nursery) -> None:
        await trio.sleep(fault.at_s)
        daemons = [self.daemons[name] for name in fault.names]
        if fault.kind == "part":
            self.world.part({daemon.host.peer: 1 for daemon in daemons})
            await trio.sleep(fault.lasts_s)
            self.world.heal()
        elif fault.kind == "freeze":
            self.world.freeze(daemons[0].host.peer)
            await trio.sleep(fault.lasts_s)
            self.world.thaw(daemons[0].host.peer)
        elif daemons[0].is_up:
            if fault.kind == "power":
                self.world.power_off(daemons[0].host.peer)
            await daemons[0].end()
            await trio.sleep(fault.lasts_s)
            if fault.kind == "power":
                self.world.power_on(daemons[0].host.peer)
            nursery.start_soon(self._start, daemons[0], 0.0)

    def _note_roles(self) -> None:
        """For whoever reads the trace: what each node was doing, and waited for, at the end."""
        for daemon in self.daemons.values():
            part = daemon.part(self.run.run_id)
            for task in part.tasks if part else ():
                view = task.view()
                self.world.trace.note(daemon.member.name, "is", view.role, view.state, view.reason)
            for wait in part.waits.views() if part else ():
                details = f"{wait.name} from {wait.waiting_for} since {wait.since_s:.0f} s"
                self.world.trace.note(daemon.member.name, "waits for", details)

    async def _wait(self) -> None:
        last = max([fault.at_s + fault.lasts_s for fault in self.plan.faults], default=0.0)
        last = max(last, *(member.joins_at_s for member in self.plan.cast))
        await trio.sleep_until(trio.current_time() + last + 1)
        with trio.move_on_after(PATIENCE_S):
            while reason := why_not_settled(self):
                self.unsettled = reason
                await trio.sleep(LOOK_S)
            self.unsettled = ""


def simulate(seed: int, nodes: int, *, with_lines: bool = False) -> Outcome:
    """Run one seed to its end."""
    began = time.process_time()
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with (
        tempfile.TemporaryDirectory(dir=place, prefix="primed-sim-") as folder,
        shared(),
        told(),
        no_collections(),
    ):
        plan = plan_of(seed, nodes)
        swarm = run(_swarm_of, plan, Path(folder), seed=seed)
    trace = swarm.world.trace
    return Outcome(
        seed=seed,
        nodes=nodes,
        failures=swarm.failures,
        unsettled=swarm.unsettled,
        digest=trace.digest(),
        cpu_s=time.process_time() - began,
        simulated_s=swarm.ends_s,
        lines=[*plan.lines(), *trace.lines()] if with_lines else [],
    )


async def _swarm_of(plan: Plan, folder: Path) -> Swarm:
    swarm = Swarm(plan, folder)
    with told(swarm.world):
        await swarm.play()
    return swarm


@contextmanager
def shared() -> Iterator[None]:
    """One computer plays all nodes: pure functions that all of them call with the same arguments
    (checks of signatures and draws, the look-up of a package, the parsing of addresses) run once."""
    places: list[tuple[Any, str]] = [
        (signing, "is_signed_by"),
        (vrf, "output"),
        (vrf, "prove"),
        (environments, "load"),
        (addresses, "dialable"),
        (addresses, "is_loopback"),
        (addresses, "networks"),
    ]
    before = [getattr(module, name) for module, name in places]
    for (module, name), function in zip(places, before, strict=True):
        setattr(module, name, lru_cache(maxsize=65536)(function))
    try:
        yield
    finally:
        for (module, name), function in zip(places, before, strict=True):
            setattr(module, name, function)


@contextmanager
def no_collections() -> Iterator[None]:
    """A seed leaves 15,000 objects behind in cycles; looking for them costs up to a tenth of its CPU
    time, because twenty nodes in one process are many objects to look through."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()


@contextmanager
def told(world: World | None = None) -> Iterator[None]:
    """Warnings of the nodes go into the trace instead of to the terminal."""

    def note(logger: Any, method: str, fields: Any) -> Any:
        if world is not None:
            event = fields.pop("event")
            said = " ".join(f"{key}={value!r:.100}" for key, value in sorted(fields.items()))
            world.trace.note(speaking.get(), method, event, said)
        raise structlog.DropEvent

    before = structlog.get_config()
    level = structlog.make_filtering_bound_logger(30)
    structlog.configure(processors=[note], wrapper_class=level, cache_logger_on_first_use=False)
    try:
        yield
    finally:
        structlog.configure(**before)
