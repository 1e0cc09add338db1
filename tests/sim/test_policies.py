"""Weights files that cannot be made: the payload is as its learner signed it and does not make the
version, or a file of ours is damaged. Another way is taken, or it is said who is to blame."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from primed.node.child import Child
from primed.node.policies import PAYLOAD_S, Policies, PolicyUnavailable
from primed.node.supervisor import Supervisor
from primed.node.waits import Waits
from primed.p2p import peerid
from primed.p2p.simnet import Access, Host, SimNetwork, World, run
from primed.protocols import disk
from primed.protocols.by_run import RunServers
from primed.protocols.shardcast import PayloadStore, Shardcast
from primed.training import deltas, weights
from primed.training.messages import Configure
from primed.verify.lineage import Lineages
from primed.verify.statements import Entry, Manifest, Payload, version_of

from .cast import Member, identity_of, sign_spec
from .children import Conduct, spawner
from .model import write_base, write_step

KIB, MIB = 1024, 1 << 20
KIB, MIB = 1024, 1 << 20
ORIGINATOR, LEARNER, FOLLOWER = (
    Member(name, identity_of(0, number), role, Access())  # type: ignore[arg-type]
    for number, (name, role) in enumerate([("o", "originator"), ("l", "learner"), ("w", "worker")])
)


class Lineage:
    """Steps 0 to 3 of a run, as files and manifests; a follower that has all payloads."""

    def __init__(self, folder: Path, cast: Shardcast) -> None:
        self.folder, self.cast = folder, cast
        self.run = sign_spec([ORIGINATOR, LEARNER], folder / "0", random.Random(3), 9)
        self.seen = Lineages(self.run)
        self.policies = Policies(self.seen, cast, folder / "made", Waits())
        self.manifests: list[Manifest] = []

    async def begin(self) -> None:
        await self.state("anchor", 0, (), snapshot=await self.cast.add(self.folder / "0"))
        for step in range(1, 4):
            write_step(self.file(step - 1), self.file(step), step, [])

    def file(self, step: int) -> Path:
        return self.folder / str(step)

    async def delta(self, start: int, end: int) -> Payload:
        out = self.folder / f"{start}-{end}"
        deltas.encode(self.file(start), self.file(end), out)
        return await self.cast.add(out)

    async def state(
        self, kind: str, step: int, parents: tuple[int, ...], **payloads: Payload
    ) -> bytes:
        manifest = Manifest(
            learner=LEARNER.peer if step else ORIGINATOR.peer,
            kind=kind,  # type: ignore[arg-type]
            step=step,
            parents=tuple(version_of(self.manifests[parent]) for parent in parents),
            weights=weights.digest_of_file(self.file(step)),
            delta=payloads.get("delta"),
            snapshot=payloads.get("snapshot"),
            consumed=(),
        )
        self.seen.observe(Entry(manifest.learner, 0, bytes(32), manifest))
        if kind != "merged":
            self.manifests.append(manifest)
        return version_of(manifest)


Body = Callable[[Lineage, Child], Awaitable[None]]


def follow(folder: Path, body: Body) -> None:
    async def main() -> None:
        world = World(1)
        network = SimNetwork(world, world.add(Host("w", FOLLOWER.peer, "/ip4/10.0.0.1/tcp/1")))
        key, rng = FOLLOWER.identity, random.Random(1)
        store = PayloadStore(folder / "payloads")
        with disk.inline():
            async with trio.open_nursery() as nursery, network.running([], []):
                nursery.start_soon(world.run)
                servers = RunServers(network)
                cast = Shardcast(servers, store, bytes(32), key.peer, key.sign, rng)
                lineage = Lineage(folder, cast)
                await lineage.begin()
                supervisor = Supervisor(folder, spawn=spawner(rng, Conduct()))
                async with supervisor.running():
                    child = supervisor.start("engine", configured(lineage))
                    await body(lineage, child)
                nursery.cancel_scope.cancel()

    run(main, seed=1)


def configured(lineage: Lineage) -> Configure:
    return Configure(
        id=0,
        kind="engine",
        spec=lineage.run.signed.spec,
        run_id=lineage.run.run_id,
        peer=FOLLOWER.peer,
    )


def test_a_delta_that_does_not_make_its_version_is_refused_by_name(tmp_path: Path) -> None:
    async def body(lineage: Lineage, child: Child) -> None:
        false = await lineage.delta(0, 3)  # an honest file, of another step
        version = await lineage.state("step", 1, (0,), delta=false)
        name = peerid.short(LEARNER.peer)
        for _ in range(3):
            began = trio.current_time()
            with pytest.raises(PolicyUnavailable, match=f"delta of step 1 by {name} is refused"):
                await lineage.policies.ensure(version, child)
        assert trio.current_time() == began  # what was refused once is not tried again
        assert not lineage.policies.path(version).exists()

    follow(tmp_path, body)


def test_another_way_is_taken_around_a_delta_that_is_wrong(tmp_path: Path) -> None:
    async def body(lineage: Lineage, child: Child) -> None:
        await lineage.state("step", 1, (0,), delta=await lineage.delta(1, 2))
        version = await lineage.state("step", 2, (1,), delta=await lineage.delta(1, 2))
        with pytest.raises(PolicyUnavailable):
            await lineage.policies.ensure(version, child)
        await lineage.state("merged", 2, (0, 2), delta=await lineage.delta(0, 2))
        made = await lineage.policies.ensure(version, child)
        assert weights.digest_of_file(made) == lineage.manifests[2].weights

    follow(tmp_path, body)


def test_a_payload_that_nobody_has_is_given_up_for_an_older_snapshot_and_deltas(
    tmp_path: Path,
) -> None:
    """The last rung of the repair ladder: after this the version is made from what there is."""

    async def body(lineage: Lineage, child: Child) -> None:
        gone = Payload(bytes(31) + b"g", MIB, 64 * KIB)
        await lineage.state(
            "step", 1, (0,), delta=await lineage.delta(0, 1), snapshot=replace(gone, size_bytes=KIB)
        )
        version = await lineage.state("step", 2, (1,), delta=await lineage.delta(1, 2))
        await lineage.state("merged", 2, (1, 2), delta=replace(gone, size_bytes=2 * KIB))
        began = trio.current_time()
        made = await lineage.policies.ensure(version, child)
        assert weights.digest_of_file(made) == lineage.manifests[2].weights
        assert PAYLOAD_S <= trio.current_time() - began < 2 * PAYLOAD_S + 10
        unknown = await lineage.state("step", 3, (2,), delta=gone)
        why = r"the delta of step 3 made no progress in 120 s"
        with pytest.raises(PolicyUnavailable, match=why):
            await lineage.policies.ensure(unknown, child)

    follow(tmp_path, body)


def test_a_snapshot_with_other_weights_than_stated_is_refused(tmp_path: Path) -> None:
    async def body(lineage: Lineage, child: Child) -> None:
        write_base(tmp_path / "other", 99)
        delta = await lineage.delta(0, 1)
        other = await lineage.cast.add(tmp_path / "other")
        version = await lineage.state("step", 1, (0,), delta=delta, snapshot=other)
        made = await lineage.policies.ensure(version, child)  # by version 0 and the delta
        assert weights.digest_of_file(made) == lineage.manifests[1].weights

    follow(tmp_path, body)


def test_a_weights_file_damaged_on_this_disk_is_made_anew(tmp_path: Path) -> None:
    async def body(lineage: Lineage, child: Child) -> None:
        version = await lineage.state("step", 1, (0,), delta=await lineage.delta(0, 1))
        base = await lineage.policies.ensure(version_of(lineage.manifests[0]), child)
        with base.open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"\x7f")
        with pytest.raises(PolicyUnavailable, match="damaged"):
            await lineage.policies.ensure(version, child)
        made = await lineage.policies.ensure(version, child)
        assert weights.digest_of_file(made) == lineage.manifests[1].weights
        assert weights.digest_of_file(base) == lineage.manifests[0].weights

    follow(tmp_path, body)
