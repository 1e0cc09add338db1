"""Who comes late or changes over downloads little: real roles on a simulated network."""

from __future__ import annotations

import errno
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import trio

from primed.node.gauges import keep_gauges
from primed.node.participation import Participation
from primed.node.shown import Shown
from primed.p2p.simnet import Access, run
from primed.protocols.shardcast import News
from primed.protocols.shardcast.bitmap import Bitmap
from primed.verify.runspec import Role, Run
from primed.verify.statements import Payload, version_of

from .cast import Member, identity_of
from .plan import Plan
from .swarm import Swarm, shared, told

ROLES: list[Role] = ["originator", "relay", "learner", "verifier", "worker", "worker"]


def plan_with(*more: Role, late_s: float = 0.0, seed: int = 7) -> Plan:
    """Healthy nodes; the last one joins late."""
    cast = [
        Member(f"n{number:02}", identity_of(seed, number), role, Access(), bootstrap=["n01"])
        for number, role in enumerate([*ROLES, *more])
    ]
    cast[1].bootstrap = ["n00"]
    cast[-1].joins_at_s = late_s
    return Plan(seed, cast, [], gossip_loss=0.0, steps=0)


class Told(Swarm):
    """Plays until its story has been told."""

    async def _wait(self) -> None:
        with trio.fail_after(600):
            await self.tell()

    async def tell(self) -> None:
        raise NotImplementedError

    def _note_roles(self) -> None:
        """Nothing is settled at the end."""

    def part(self, name: str) -> Participation | None:
        return self.daemons[name].part(self.run.run_id)

    async def until_in(self, name: str) -> Participation:
        while (part := self.part(name)) is None:
            await trio.sleep(0.1)
        return part

    async def until_state(self, part: Participation, state: str) -> str:
        """Its role's words when it gets there."""
        while True:
            for task in part.tasks:
                if task.view().state == state:
                    return task.view().reason
            await trio.sleep(0.02)


def play(kind: type[Told], plan: Plan) -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="primed-sim-") as folder:
            swarm = kind(plan, Path(folder))
            with told(swarm.world):
                await swarm.play()

    with shared():
        run(main, seed=plan.seed)


def payloads_at(part: Participation) -> Iterator[str]:
    """What a node has downloaded of the payloads that were stated: snapshot, delta or merged."""
    lineages = part.lineages
    versions = lineages.manifests
    for manifest in (*versions.values(), *(m for v in versions for m in lineages.merged(v))):
        named = {"merged" if manifest.kind == "merged" else "delta": manifest.delta}
        for kind, payload in {**named, "snapshot": manifest.snapshot}.items():
            if payload is not None and part.shardcast.progress(payload).reason == "complete":
                yield kind


class Joining(Told):
    async def tell(self) -> None:
        late = await self.until_in(self.plan.cast[-1].name)
        reason = await self.until_state(late, "generating")
        newest = late.lineages.newest_step(next(iter(self.run.peers("learner"))))
        assert newest >= 2
        assert reason in (f"batch 0 with step {step}" for step in (newest - 1, newest))
        assert sorted(payloads_at(late)) == ["merged", "snapshot"]


def test_a_worker_that_joins_mid_run_generates_after_one_snapshot_and_one_delta() -> None:
    play(Joining, plan_with("worker", late_s=25.0))


class JoiningTwice(Told):
    """By the invite that the daemon was started with, and by its user, who is impatient."""

    async def tell(self) -> None:
        daemon = self.daemons[self.plan.cast[-1].name]
        while daemon.joining is None or not daemon.is_up:
            await trio.sleep(0.001)
        joining, starts = daemon.joining, daemon.joining._start
        started: list[Run] = []

        def start(run: Run, roles: tuple[Role, ...]) -> None:
            started.append(run)
            starts(run, roles)

        joining._start = start  # type: ignore[method-assign]
        joining.known[self.run.run_id] = self.run  # a peer has told it meanwhile
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(joining.join, self.run.run_id.hex(), ())
        part = joining.parts[self.run.run_id]
        await self.until_state(part, "generating")
        assert started == [self.run] and not self.watch.contradictions


def test_a_run_that_is_joined_several_times_at_once_is_joined_once() -> None:
    play(JoiningTwice, plan_with("worker", late_s=5.0))


class DiskFull(Told):
    """A late worker without room for the snapshot, until somebody makes some."""

    async def tell(self) -> None:
        daemon = self.daemons[self.plan.cast[-1].name]
        late = await self.until_in(daemon.member.name)
        store = late.shardcast._store
        works = store.open

        def full(payload: Payload) -> Bitmap:
            raise OSError(errno.ENOSPC, "No space left on device")

        store.open = full  # type: ignore[method-assign]
        services, joining = daemon.services, daemon.joining
        assert services is not None and joining is not None
        while "disk" not in [problem.name for problem in services.problems.views()]:
            await trio.sleep(0.1)
        shown = Shown(services, joining, trio.Event())
        (view,) = (await shown.runs()).runs
        (transfer,) = view.transfers
        assert transfer.name.startswith("snapshot of step") and transfer.left_s is None
        assert transfer.reason.startswith("disk: [Errno 28] No space left")
        with trio.move_on_after(1.0):
            await keep_gauges(services, shown)
        store.open = works  # type: ignore[method-assign]
        await self.until_state(late, "generating")
        with trio.move_on_after(1.0):
            await keep_gauges(services, shown)
        metrics = services.metrics.text().decode()
        received = (
            r'primed_payload_bytes_total\{direction="received",lane="streams",run="simulated"\} '
        )
        for line in (
            'primed_payload_stalls_total{reason="disk",run="simulated"}',
            'primed_payloads_total{outcome="complete",run="simulated"}',
            'primed_payload_seconds_count{run="simulated"}',
            'primed_payload_completion{run="simulated"} 1.0',
            'primed_payload_amplification{run="simulated"} 1.',
        ):
            assert line in metrics
        assert re.search(received + r"[1-9]", metrics)


def test_scenario_12_a_payload_without_room_makes_the_state_degraded_and_comes_later() -> None:
    play(DiskFull, plan_with("worker", late_s=15.0))


class ChangingOver(Told):
    """A learner's machine is gone for good; its worker follows the other one."""

    async def tell(self) -> None:
        parts = {name: await self.until_in(name) for name in self.daemons}
        worker, part = next(
            (daemon.member, parts[name])
            for name, daemon in self.daemons.items()
            if daemon.member.role == "worker"
        )
        first = part.learner_of(worker.peer)
        workers = [d.member.peer for d in self.daemons.values() if d.member.role == "worker"]
        assert len(set(map(part.learner_of, workers))) == 2, "another seed is needed"
        (gone,) = (d for d in self.daemons.values() if d.member.peer == first)
        (other,) = self.run.peers("learner").keys() - {first}
        while part.lineages.newest_step(other) < 5 or part.lineages.newest_step(first) < 2:
            await trio.sleep(0.2)
        complete: list[Payload] = []
        names: dict[Payload, str] = {}  # of all that was ever worth having

        def note(news: News) -> None:
            if news.what == "complete":
                complete.append(news.payload)

        part.shardcast.on_news(note)
        await gone.end()
        while part.learner_of(worker.peer) == first or not self.has_some_of(part, other):
            names.update(part.payloads.names())
            await trio.sleep(0.05)
        came = [names[payload] for payload in complete]
        assert part.lineages.newest_step(other) >= 8  # whose snapshots it never had
        assert any(name.startswith("delta of steps 0 to ") for name in came)
        assert len(came) <= 5 and not any("snapshot" in name for name in came)

    def has_some_of(self, part: Participation, learner: bytes) -> bool:
        versions = map(version_of, part.lineages.chain(learner))
        return any(part.policies.has(v) for v in versions if v != part.lineages.base)


def test_a_worker_changes_lineage_without_another_snapshot() -> None:
    play(ChangingOver, plan_with("learner", "worker", "worker", seed=9))
