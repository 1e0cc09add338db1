"""Batches and evidence between nodes: receipts, quotas, repeats, crashes, wrong bytes."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

import pytest
import trio
import trio.testing

from primed.p2p.errors import RemoteError
from primed.p2p.hours import QuietHours
from primed.p2p.uploads import Uploads
from primed.protocols import limits
from primed.protocols.by_run import RunServers
from primed.protocols.client import Client
from primed.protocols.disk import inline
from primed.protocols.limits import MIN_BYTES_PER_S
from primed.protocols.rollouts import PROTOCOL, BatchHeader, Rollouts
from primed.protocols.rollouts import messages as wire
from primed.protocols.rollouts import store as rollout_store
from primed.protocols.rpc import Refused
from primed.protocols.server import Reply, Server
from primed.protocols.verdicts import Evidence, Verdicts
from primed.verify.digests import content_digest
from primed.verify.signing import is_signed_by
from primed.verify.statements import Receipt, Verdict, stored_message

from .memory_network import Fabric, MemoryNetwork
from .protocol_samples import RUN

pytestmark = pytest.mark.trio
ROOT = b"r" * 32


class Node:
    def __init__(self, network: MemoryNetwork, folder: Path) -> None:
        self.network = network
        self.folder = folder
        self.refuse = ""
        self.judges: set[bytes] = set()
        self.rollouts = self.opened()

    def opened(self) -> Rollouts:
        key = self.network.key
        servers = RunServers(self.network)
        return Rollouts(
            servers,
            RUN,
            key.peer,
            key.sign,
            self.folder,
            lambda worker, counter: self.refuse,
            lambda peer: peer in self.judges,
        )

    async def push(self, holder: Node, path: Path, counter: int = 0) -> Receipt:
        batch = content_digest(path.read_bytes())
        return await self.rollouts.push(
            holder.network.peer, path, counter=counter, batch=batch, root=ROOT
        )


@asynccontextmanager
async def fabric_of(folder: Path, *seeds: int) -> AsyncIterator[tuple[Fabric, list[Node]]]:
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            fabric = Fabric(nursery)
            nodes = [Node(fabric.node(seed), folder / str(seed)) for seed in seeds]
            fabric.link_all()
            yield fabric, nodes
            assert not any(node.network.handler_errors for node in nodes)
            nursery.cancel_scope.cancel()


def a_batch(folder: Path, size_bytes: int, byte: int = 1) -> Path:
    path = folder / f"batch-{size_bytes}-{byte}"
    path.write_bytes(bytes([byte]) * size_bytes)
    return path


@pytest.mark.parametrize("size_bytes", [1, 256 * 1024, 3_000_000])
async def test_push_gives_a_receipt_and_anyone_fetches_the_same_bytes(
    tmp_path: Path, size_bytes: int
) -> None:
    async with fabric_of(tmp_path, 1, 2, 3) as (_, (worker, holder, verifier)):
        path = a_batch(tmp_path, size_bytes)
        batch = content_digest(path.read_bytes())
        receipt = await worker.push(holder, path)
        message = stored_message(RUN, worker.network.peer, 0, batch, ROOT)
        assert is_signed_by(holder.network.peer, "stored", message, receipt.signature)
        fetched = await verifier.rollouts.fetch(holder.network.peer, batch, size_bytes)
        assert fetched.read_bytes() == path.read_bytes()
        assert verifier.rollouts.path(batch) == fetched
        for node in (holder, verifier):
            await node.rollouts.forget(worker.network.peer, 0, batch, fetched=True)
            assert not list(node.folder.iterdir())
        with pytest.raises(Refused, match="not_found"):
            await worker.rollouts.fetch(holder.network.peer, batch, size_bytes)


async def test_scenario_42_a_repeated_push_is_answered_once_more_without_the_bytes(
    tmp_path: Path,
) -> None:
    async with fabric_of(tmp_path, 1, 2) as (_, (worker, holder)):
        path = a_batch(tmp_path, 1_000_000)
        first = await worker.push(holder, path)
        holder.rollouts = holder.opened()  # the holder restarts between storing and answering
        batch = content_digest(path.read_bytes())
        path.write_bytes(bytes(1_000_000))  # would not verify if it were sent
        again = await worker.rollouts.push(
            holder.network.peer, path, counter=0, batch=batch, root=ROOT
        )
        assert again == first


async def test_scenario_42_a_crash_in_the_midst_of_storing_leaves_nothing_half(
    tmp_path: Path,
) -> None:
    async with fabric_of(tmp_path, 1, 2) as (_, (worker, holder)):
        path = a_batch(tmp_path, 100_000)
        batch = content_digest(path.read_bytes())
        (holder.folder / "7.tmp").write_bytes(b"half")
        (holder.folder / f"{batch.hex()}.meta").write_bytes(b"\xc1")
        (holder.folder / f"{bytes(32).hex()}.meta").write_bytes(b"")
        holder.rollouts = holder.opened()
        assert holder.rollouts.path(batch) is None and not list(holder.folder.iterdir())
        await worker.push(holder, path)
        assert holder.rollouts.path(batch) is not None


async def test_an_uncommitted_batch_is_replaced_and_a_committed_one_is_not(tmp_path: Path) -> None:
    async with fabric_of(tmp_path, 1, 2) as (_, (worker, holder)):
        first, second, third = (a_batch(tmp_path, 1000, byte) for byte in (1, 2, 3))
        digests = [content_digest(path.read_bytes()) for path in (first, second, third)]
        await worker.push(holder, first)
        await worker.push(holder, second)
        assert holder.rollouts.path(digests[0]) is None
        holder.rollouts.commit(worker.network.peer, 0, digests[1])
        with pytest.raises(Refused, match="committed under this counter"):
            await worker.push(holder, third)
        await worker.push(holder, third, counter=1)
        assert all(holder.rollouts.path(batch) for batch in digests[1:])


async def test_the_same_bytes_under_two_headers_go_with_the_last_of_them(tmp_path: Path) -> None:
    """Also over a restart, for which the first worker's header has the name of old releases."""
    async with fabric_of(tmp_path, 1, 2, 3) as (_, (worker, holder, thief)):
        path = a_batch(tmp_path, 1000)
        batch = content_digest(path.read_bytes())
        await worker.push(holder, path)
        next(holder.folder.glob("*.meta")).rename(holder.folder / f"{batch.hex()}.meta")
        holder.rollouts = holder.opened()
        await thief.push(holder, path)
        holder.rollouts.commit(thief.network.peer, 0, bytes(32))
        holder.rollouts.commit(worker.network.peer, 0, batch)
        holder.rollouts = holder.opened()
        await thief.push(holder, a_batch(tmp_path, 10))  # replaces what it had stored
        assert holder.rollouts.path(batch) is not None
        await thief.push(holder, path)
        await holder.rollouts.forget(thief.network.peer, 0, batch, fetched=True)
        await holder.rollouts.forget(thief.network.peer, 1, batch, fetched=True)
        held = await thief.rollouts.fetch(holder.network.peer, batch, 1000)
        assert held.read_bytes() == path.read_bytes()
        await holder.rollouts.forget(worker.network.peer, 0, batch, fetched=False)
        assert holder.rollouts.path(batch) is None and not list(holder.folder.iterdir())


async def test_what_was_fetched_stays_when_its_worker_replaces_it(tmp_path: Path) -> None:
    async with fabric_of(tmp_path, 1, 2, 3) as (_, (worker, holder, verifier)):
        path = a_batch(tmp_path, 1000)
        batch = content_digest(path.read_bytes())
        await worker.push(holder, path)
        await verifier.rollouts.fetch(holder.network.peer, batch, 1000)
        await worker.push(verifier, path)
        await worker.push(verifier, a_batch(tmp_path, 10))
        assert verifier.rollouts.path(batch) is not None


async def test_quotas_say_busy_and_forget_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout_store, "BATCHES_PER_WORKER", 2)
    async with fabric_of(tmp_path, 1, 2) as (_, (worker, holder)):
        paths = [a_batch(tmp_path, 1000, byte) for byte in range(3)]
        for counter in range(2):
            await worker.push(holder, paths[counter], counter)
        with pytest.raises(Refused) as caught:
            await worker.push(holder, paths[2], 2)
        assert (caught.value.code, caught.value.retry_after_ms) == ("busy", limits.BUSY_RETRY_MS)
        first = content_digest(paths[0].read_bytes())
        await holder.rollouts.forget(worker.network.peer, 0, first, fetched=True)
        await worker.push(holder, paths[2], 2)
        assert not holder.network.penalties


async def test_excluded_workers_are_denied(tmp_path: Path) -> None:
    async with fabric_of(tmp_path, 1, 2) as (_, (worker, holder)):
        holder.refuse = "excluded from this run for fraud"
        with pytest.raises(Refused, match="denied: excluded"):
            await worker.push(holder, a_batch(tmp_path, 10))


async def test_bytes_that_are_not_the_batch_are_charged_and_not_kept(tmp_path: Path) -> None:
    async with fabric_of(tmp_path, 1, 2) as (_, (worker, holder)):
        path = a_batch(tmp_path, 500_000)
        with pytest.raises(Refused, match="not the batch"):
            await worker.rollouts.push(
                holder.network.peer, path, counter=0, batch=bytes(32), root=ROOT
            )
        assert [peer for peer, _, _ in holder.network.penalties] == [worker.network.peer]
        assert not list(holder.folder.iterdir())


async def test_a_batch_in_another_workers_name_is_charged(tmp_path: Path) -> None:
    async with fabric_of(tmp_path, 1, 2, 3) as (_, (worker, holder, other)):
        header = BatchHeader(RUN, other.network.peer, 0, bytes(32), ROOT, 10)
        client = Client(worker.network, PROTOCOL, wire.responses)
        with pytest.raises(Refused, match="another worker"):
            await client.request(holder.network.peer, wire.Offer(header))
        assert [peer for peer, _, _ in holder.network.penalties] == [worker.network.peer]


async def test_a_holder_with_wrong_bytes_or_a_false_receipt_is_charged(tmp_path: Path) -> None:
    async with fabric_of(tmp_path, 1) as (fabric, (node,)):
        liar = fabric.node(66)
        wrong = a_batch(tmp_path, 1000, 9)

        async def lie(peer: bytes, message: wire.Offer | wire.Put | wire.Get, _: object) -> Reply:
            if isinstance(message, wire.Get):
                return Reply(wire.Found(), attach=(wrong, 1000))
            return Reply(wire.Stored(Receipt(liar.peer, bytes(64))))

        Server(liar, PROTOCOL, wire.requests, lie)
        fabric.link(node.network, liar)
        good = a_batch(tmp_path, 1000)
        batch = content_digest(good.read_bytes())
        with pytest.raises(RemoteError, match="not the batch"):
            await node.rollouts.fetch(liar.peer, batch, 1000)
        with pytest.raises(RemoteError, match="larger than asked"):
            await node.rollouts.fetch(liar.peer, batch, 999)
        with pytest.raises(RemoteError, match="another size"):
            await node.rollouts.fetch(liar.peer, batch, 1001)
        with pytest.raises(RemoteError, match="receipt is not valid"):
            await node.rollouts.push(liar.peer, good, counter=0, batch=batch, root=ROOT)
        assert len(node.network.penalties) == 4 and not list(node.folder.iterdir())


async def test_a_node_may_hold_its_own_batches(tmp_path: Path) -> None:
    async with fabric_of(tmp_path, 1) as (_, (node,)):
        path = a_batch(tmp_path, 1000)
        receipt = await node.push(node, path)
        assert receipt.holder == node.network.peer
        held = node.rollouts.path(content_digest(path.read_bytes()))
        assert held is not None and held.read_bytes() == path.read_bytes()


async def test_evidence_is_served_by_commitment(tmp_path: Path) -> None:
    async with fabric_of(tmp_path, 1, 2) as (_, (asker, verifier)):
        verdict = Verdict(b"c" * 32, 0, "reject", "sampling", {"mismatch": 0.5})
        evidence = Evidence(verdict, "group 3 sample 1: 40 of 60 tokens differ")
        known = {(RUN, b"c" * 32): evidence, (RUN, b"d" * 32): evidence}
        Verdicts(verifier.network, lambda run, commitment: known.get((run, commitment)))
        client = Verdicts(asker.network, lambda run, commitment: None)
        assert await client.get(verifier.network.peer, RUN, b"c" * 32) == evidence
        with pytest.raises(Refused, match="not_found"):
            await client.get(verifier.network.peer, RUN, b"e" * 32)
        with pytest.raises(RemoteError, match="another commitment"):
            await client.get(verifier.network.peer, RUN, b"d" * 32)


async def test_batches_keep_to_the_upload_cap_and_quiet_hours(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    def capped(bytes_per_s: float, quiet: str = "") -> Uploads:
        hours = QuietHours.parse(quiet) if quiet else None
        noon = datetime(2026, 1, 1, 12)
        return Uploads(bytes_per_s, hours, clock=trio.current_time, local_time=lambda: noon)

    with inline():
        async with trio.open_nursery() as nursery:
            fabric = Fabric(nursery)
            worker, holder, asker = (Node(fabric.node(n), tmp_path / str(n)) for n in (1, 2, 3))
            fabric.link_all()
            path, size_bytes = a_batch(tmp_path, 3_000_000), 3_000_000
            batch = content_digest(path.read_bytes())
            worker.network._uploads = capped(10_000, "00:00-23:59")  # our own work goes on
            began = trio.current_time()
            await worker.push(holder, path)
            assert 3_000_000 / 60_000 < trio.current_time() - began < 3_000_000 / MIN_BYTES_PER_S

            async def fetch() -> float:
                began = trio.current_time()
                await asker.rollouts.fetch(holder.network.peer, batch, size_bytes)
                await asker.rollouts.forget(bytes(32), 0, batch, fetched=True)
                return trio.current_time() - began

            holder.network._uploads = capped(100_000)
            assert 25 < await fetch() < 35
            for uploads, why in (
                (capped(1e9, "00:00-23:59"), "busy: quiet hours"),
                (capped(50_000), "busy: the upload cap is too low"),
            ):
                holder.network._uploads = uploads
                with pytest.raises(Refused, match=why) as refused:
                    await fetch()
                assert refused.value.retry_after_ms == 600_000
            holder.network._uploads = capped(1e9, "00:00-23:59")
            holder.judges = {asker.network.peer}
            assert await fetch() < 1  # who checks it was promised the bytes
            with pytest.raises(Refused, match="busy: quiet hours"):
                await worker.push(holder, a_batch(tmp_path, 1_000), counter=1)
            holder.network._uploads = capped(math.inf)
            assert await fetch() < 1
            assert not holder.network.penalties and not asker.network.penalties
            nursery.cancel_scope.cancel()
