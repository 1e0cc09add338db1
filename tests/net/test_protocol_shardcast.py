"""Payloads between nodes: pushed, pulled, in a swarm, past liars, after a crash."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from primed.p2p.errors import LocalError, RemoteError
from primed.p2p.network import Stream
from primed.protocols.by_run import RunServers
from primed.protocols.client import Client
from primed.protocols.disk import inline
from primed.protocols.framing import encode
from primed.protocols.limits import DOWNLOADS_MAX
from primed.protocols.server import Reply, Server
from primed.protocols.shardcast import PROTOCOL, PayloadStore, Shardcast, serving, transfer
from primed.protocols.shardcast import messages as wire
from primed.protocols.topics import shards_topic
from primed.verify.signing import message_to_sign
from primed.verify.statements import Payload

from .memory_network import Fabric, MemoryNetwork
from .protocol_samples import RUN

pytestmark = pytest.mark.trio
KIB = 1024


class Node:
    def __init__(self, network: MemoryNetwork, folder: Path) -> None:
        self.network = network
        self.store = PayloadStore(folder)
        key, rng = network.key, random.Random(network.peer)
        self.cast = Shardcast(RunServers(network), self.store, RUN, key.peer, key.sign, rng)


@asynccontextmanager
async def fabric_of(folder: Path, *seeds: int) -> AsyncIterator[tuple[Fabric, list[Node]]]:
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            fabric = Fabric(nursery)
            nodes = [Node(fabric.node(seed), folder / str(seed)) for seed in seeds]
            for node in nodes:
                nursery.start_soon(node.cast.run)
                for other in nodes:
                    if other is not node:
                        node.cast.follow(other.network.peer)
            yield fabric, nodes
            assert not any(node.network.handler_errors for node in nodes)
            nursery.cancel_scope.cancel()


def a_file(folder: Path, size_bytes: int) -> Path:
    path = folder / "weights"
    path.write_bytes(random.Random(size_bytes).randbytes(size_bytes))
    return path


async def test_small_payloads_are_pushed_through_nodes_that_have_no_manifest_yet(
    tmp_path: Path,
) -> None:
    async with fabric_of(tmp_path, 1, 2, 3) as (fabric, (a, b, c)):
        fabric.link(a.network, b.network)
        fabric.link(b.network, c.network)
        file = a_file(tmp_path, 700 * KIB)
        payload = await a.cast.add(file)
        c.cast.expect(payload, a.network.peer)
        assert await a.cast.push(payload, a.network.peer)
        assert (await c.cast.wait(payload)).read_bytes() == file.read_bytes()
        b.cast.expect(payload, a.network.peer)  # its manifest was late: the leaves are here
        assert (await b.cast.wait(payload)).read_bytes() == file.read_bytes()
        for node in (b, c):
            assert node.cast.received_gossip_bytes == 700 * KIB
            assert node.cast.received_pulled_bytes == 0
        assert b.cast.progress(payload).reason == "complete"


async def test_a_version_of_12_mib_arrives_by_pull_and_partial_holders_serve_it(
    tmp_path: Path,
) -> None:
    async with fabric_of(tmp_path, 1, 2, 3) as (fabric, (a, b, c)):
        fabric.link(a.network, b.network)
        fabric.link(b.network, c.network)  # c sees the origin's leaves only through b
        file = a_file(tmp_path, 12 * KIB * KIB)
        payload = await a.cast.add(file)
        assert not await a.cast.push(payload, a.network.peer)
        for node in (b, c):
            node.cast.expect(payload, a.network.peer)
        assert (await c.cast.wait(payload)).read_bytes() == file.read_bytes()
        assert (await b.cast.wait(payload)).read_bytes() == file.read_bytes()
        assert c.cast.received_gossip_bytes == 0
        assert payload.size_bytes <= c.cast.received_pulled_bytes <= 1.1 * payload.size_bytes
        assert not any(node.network.penalties for node in (a, b, c))


async def test_who_asked_too_early_is_told_as_soon_as_there_is_something(tmp_path: Path) -> None:
    """Also of a payload too small to be seeded."""
    async with fabric_of(tmp_path, 1, 2) as (fabric, (a, b)):
        fabric.link(a.network, b.network)
        file = a_file(tmp_path, 700 * KIB)
        payload = PayloadStore(tmp_path / "elsewhere").import_file(file)
        b.cast.expect(payload, a.network.peer)
        await trio.sleep(2.5)
        await a.cast.add(file)
        with trio.fail_after(1.5):
            await b.cast.wait(payload)


async def test_what_was_here_before_a_restart_is_told_when_it_is_looked_at(tmp_path: Path) -> None:
    file = a_file(tmp_path, 3 * KIB * KIB)
    whole, before = PayloadStore(tmp_path / "elsewhere"), PayloadStore(tmp_path / "1")
    payload = whole.import_file(file)
    before.open(payload)
    for index in range(payload.leaves - 1):
        found = whole.read_leaf(payload, index)
        assert found is not None and before.write_leaf(payload, index, *found)
    async with fabric_of(tmp_path, 1, 2) as (fabric, (a, b)):
        fabric.link(a.network, b.network)
        b.cast.expect(payload, a.network.peer)
        await trio.sleep(1.0)
        a.cast.expect(payload, b.network.peer)
        with trio.fail_after(1.5):
            while b.cast.progress(payload).leaves_here < payload.leaves - 1:
                await trio.sleep(0.02)


async def test_a_payload_that_no_connected_peer_knows_is_found_through_the_dht(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "PROVIDE_WITHIN_S", 0.1)
    async with fabric_of(tmp_path, 1, 2, 3) as (fabric, (holder, idle, b)):
        fabric.link(idle.network, b.network)
        file = a_file(tmp_path, 2 * KIB * KIB)
        payload = await holder.cast.add(file)
        b.cast.expect(payload, fabric.node(9).peer)  # a learner that is not there
        assert (await b.cast.wait(payload)).read_bytes() == file.read_bytes()


async def test_announcements_are_not_hoarded_for_a_transfer_that_has_not_begun(
    tmp_path: Path,
) -> None:
    async with fabric_of(tmp_path, 1, 2) as (fabric, (a, b)):
        fabric.link(a.network, b.network)
        payloads = [Payload(bytes([n]) * 32, 4096 * KIB, KIB) for n in range(DOWNLOADS_MAX + 1)]
        for payload in payloads:
            b.cast.expect(payload, a.network.peer)
        await trio.sleep(0.5)
        waiting = b.cast._transfers[payloads[-1]]
        assert "are on their way already" in waiting.reason
        for _ in range(200):
            assert b.cast._told(a.network.peer, payloads[-1], tuple(range(4096))).is_wanted
            assert b.cast._told(a.network.peer, payloads[0], tuple(range(4096))).is_wanted
        assert not waiting._events
        assert len(b.cast._transfers[payloads[0]]._events) <= transfer.ANNOUNCED_MAX


async def test_lost_pushes_are_pulled_after_a_moment(tmp_path: Path) -> None:
    async with fabric_of(tmp_path, 1, 2) as (fabric, (a, b)):
        fabric.link(a.network, b.network)
        rng = random.Random(1)
        fabric.drop = lambda sender, receiver, data: rng.random() < 0.5
        file = a_file(tmp_path, 900 * KIB)
        payload = await a.cast.add(file)
        b.cast.expect(payload, a.network.peer)
        await a.cast.push(payload, a.network.peer)
        assert (await b.cast.wait(payload)).read_bytes() == file.read_bytes()
        assert b.cast.received_gossip_bytes > 0 and b.cast.received_pulled_bytes > 0


async def test_a_bad_leaf_names_its_sender_and_the_transfer_goes_on(tmp_path: Path) -> None:
    async with fabric_of(tmp_path, 1, 2) as (fabric, (a, b)):
        liar = fabric.node(66)

        async def lie(peer: bytes, message: object, _: object) -> Reply:
            if isinstance(message, wire.GetHave):
                return Reply(wire.Have(b"\xff" * 100))
            assert isinstance(message, wire.GetLeaves)
            leaf = wire.Leaf(message.indexes[0], bytes(64 * KIB), ())
            return Reply(wire.Leaves((leaf,)))

        Server(liar, PROTOCOL, wire.requests, lie)
        fabric.link(b.network, liar)
        file = a_file(tmp_path, 2 * KIB * KIB)
        payload = await a.cast.add(file)
        b.cast.expect(payload, liar.peer)
        while not b.network.penalties:
            await trio.sleep(0.01)
        fabric.link(a.network, b.network)
        assert (await b.cast.wait(payload)).read_bytes() == file.read_bytes()
        assert [peer for peer, _, _ in b.network.penalties] == [liar.peer]  # once: never again


async def test_gossip_that_is_not_the_learners_is_rejected(tmp_path: Path) -> None:
    async with fabric_of(tmp_path, 1, 2) as (fabric, (a, b)):
        fabric.link(a.network, b.network)
        payload = await a.cast.add(a_file(tmp_path, 100 * KIB))
        read = a.store.read_leaf(payload, 0)
        assert read is not None
        body = wire.shards_message(RUN, a.network.peer, payload)
        good = a.network.key.sign(message_to_sign("shards", body))
        forged = b.network.key.sign(message_to_sign("shards", body))
        leaf, path = read[0], tuple(read[1])
        topic = shards_topic(RUN, a.network.peer)
        for bad in (
            wire.Shard(payload, forged, 0, leaf, path),
            wire.Shard(payload, good, 1, leaf, path),
            wire.Shard(payload, good, 0, leaf[:-1], path),
            wire.Shard(Payload(payload.root, 1 << 30, 65536), good, 0, leaf, path),
        ):
            before = len(b.network.penalties)
            b.network.receive(a.network.peer, topic, encode(bad))
            assert len(b.network.penalties) == before + 1
        b.network.receive(a.network.peer, topic, b"\x91" * 300_000)
        assert len(b.network.penalties) == 5
        assert b.cast.received_gossip_bytes == 0


async def test_it_says_what_it_waits_for_and_stops_when_told(tmp_path: Path) -> None:
    async with fabric_of(tmp_path, 1, 2) as (fabric, (a, b)):
        payload = Payload(bytes(32), 40 * KIB * KIB, 256 * KIB)
        b.cast.expect(payload, a.network.peer)
        fabric.link(a.network, b.network)
        while "none of 1 peers has them" not in b.cast.progress(payload).reason:
            await trio.sleep(0.02)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_drop, b, payload)
            await trio.testing.wait_all_tasks_blocked()
            await b.cast.forget(payload)
        assert not list((tmp_path / "2").iterdir())
        with pytest.raises(LocalError):
            await b.cast.wait(payload)


async def expect_drop(node: Node, payload: Payload) -> None:
    with pytest.raises(RemoteError, match="dropped"):
        await node.cast.wait(payload)


async def test_a_manifest_with_absurd_leaves_is_refused(tmp_path: Path) -> None:
    async with fabric_of(tmp_path, 1) as (_, (a,)):
        for payload in (Payload(bytes(32), 1 << 20, 1 << 20), Payload(bytes(32), 1 << 42, 1 << 10)):
            a.cast.expect(payload, bytes(38))
            with pytest.raises(RemoteError, match="refused"):
                await a.cast.wait(payload)
        assert not list((tmp_path / "1").iterdir())


async def test_scenario_12_a_full_disk_is_named_and_waited_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "DISK_RETRY_S", 0.1)
    async with fabric_of(tmp_path, 1, 2) as (fabric, (a, b)):
        fabric.link(a.network, b.network)
        file = a_file(tmp_path, 2 * KIB * KIB)
        payload = await a.cast.add(file)
        works = b.store.write_leaf

        def full(*args: object) -> bool:
            raise OSError(28, "No space left on device")

        b.store.write_leaf = full  # type: ignore[method-assign, assignment]
        b.cast.expect(payload, a.network.peer)
        while "No space left" not in b.cast.progress(payload).reason:
            await trio.sleep(0.02)
        b.store.write_leaf = works  # type: ignore[method-assign]
        assert (await b.cast.wait(payload)).read_bytes() == file.read_bytes()


async def test_retain_deletes_what_is_not_named(tmp_path: Path) -> None:
    async with fabric_of(tmp_path, 1) as (_, (a,)):
        old = await a.cast.add(a_file(tmp_path, 100 * KIB))
        (tmp_path / "weights").unlink()
        new = await a.cast.add(a_file(tmp_path, 200 * KIB))
        await a.cast.retain({new.root})
        assert a.store.path(old) is None and a.store.path(new) is not None


async def test_retain_ends_the_wait_for_what_is_not_named(tmp_path: Path) -> None:
    async with fabric_of(tmp_path, 1) as (_, (a,)):
        wanted, outdated = (Payload(bytes([n]) * 32, KIB * KIB, 64 * KIB) for n in (1, 2))
        for payload in (wanted, outdated):
            a.cast.expect(payload, bytes(38))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_drop, a, outdated)
            await trio.testing.wait_all_tasks_blocked()
            await a.cast.retain({wanted.root})
        assert a.cast.progress(wanted).reason != "not expected"


async def test_a_peer_that_asks_and_hears_nothing_delays_nobody(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """It asks twice a second what an origin has, and is silent when it is told."""
    with inline():
        async with trio.open_nursery() as nursery:
            fabric = Fabric(nursery)
            origin, honest = (Node(fabric.node(n), tmp_path / str(n)) for n in (1, 2))
            silent = fabric.node(3)
            for node in (origin, honest):
                nursery.start_soon(node.cast.run)
                fabric.link(silent if node is honest else honest.network, origin.network)

            async def hear(stream: Stream) -> None:
                while await stream.read_some(65536):
                    pass

            silent.handle(PROTOCOL, hear)
            payload = await origin.cast.add(a_file(tmp_path, 4096 * KIB))

            async def ask() -> None:
                client = Client(silent, PROTOCOL, wire.responses)
                while True:
                    await client.request(origin.network.peer, wire.GetHave(RUN, payload))
                    await trio.sleep(0.5)

            nursery.start_soon(ask)
            await trio.sleep(15)
            honest.cast.expect(payload, origin.network.peer)
            with trio.fail_after(20):
                await honest.cast.wait(payload)
            nursery.cancel_scope.cancel()
