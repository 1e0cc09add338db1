"""What all peers together may make a server hold or do at a time, each limit exceeded. Simulated
time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from primed.p2p.errors import RemoteError
from primed.p2p.network import PeerId
from primed.protocols import hello, limits, shardcast
from primed.protocols.client import Client
from primed.protocols.disk import inline
from primed.protocols.hello.messages import ListRuns, RunList, requests, responses
from primed.protocols.hello.records import sign_record
from primed.protocols.rpc import Attachment
from primed.protocols.server import Reply, Server
from primed.protocols.shardcast import messages as wire
from primed.verify.statements import Payload

from .memory_network import Fabric, Key
from .protocol_samples import NOW_MS, RUN
from .test_protocol_hostile_streams import serve_everything

pytestmark = pytest.mark.trio


async def test_sixty_four_requests_are_answered_at_a_time_and_the_next_wait(
    autojump_clock: trio.testing.MockClock,
) -> None:
    busy, most = 0, 0

    async def answer(peer: PeerId, message: object, _: Attachment) -> Reply:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await trio.sleep(1.0)
        busy -= 1
        return Reply(RunList(()))

    async with trio.open_nursery() as nursery:
        fabric = Fabric(nursery)
        node = fabric.node(1)
        server = Server(node, hello.PROTOCOL, requests, answer)
        others = [fabric.node(100 + n) for n in range(limits.ANSWERS_IN_FLIGHT + 30)]
        began = trio.current_time()
        async with trio.open_nursery() as asking:
            for other in others:
                fabric.link(node, other)
                client = Client(other, hello.PROTOCOL, responses)
                asking.start_soon(client.request, node.peer, ListRuns())
        assert most == limits.ANSWERS_IN_FLIGHT
        assert trio.current_time() - began == pytest.approx(2.0)
        assert len(server._buckets) == len(others)
        nursery.cancel_scope.cancel()


async def test_the_rates_of_so_many_peers_are_remembered(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("primed.protocols.server.PEERS_TRACKED", 5)

    async def answer(peer: PeerId, message: object, _: Attachment) -> Reply:
        return Reply(RunList(()))

    async with trio.open_nursery() as nursery:
        fabric = Fabric(nursery)
        node = fabric.node(1)
        server = Server(node, hello.PROTOCOL, requests, answer)
        for number in range(20):
            other = fabric.node(100 + number)
            fabric.link(node, other)
            await Client(other, hello.PROTOCOL, responses).request(node.peer, ListRuns())
        assert len(server._buckets) == 5
        nursery.cancel_scope.cancel()


async def test_requests_for_shards_have_a_bucket_of_their_own_and_four_leaves_at_most(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    payload = Payload(bytes(32), 1 << 20, 1 << 16)
    async with trio.open_nursery() as nursery:
        fabric = Fabric(nursery)
        with inline():
            node, asker = fabric.node(1), fabric.node(66)
            serve_everything(node, tmp_path)
            fabric.link(node, asker)
            greedy: Client[Any] = Client(
                asker, shardcast.PROTOCOL, wire.responses, burst=1e9, per_s=1e9
            )
            began, over = trio.current_time(), 128
            for _ in range(limits.SHARD_REQUESTS_BURST + over):
                await greedy.request(node.peer, wire.GetHave(RUN, payload))
            assert trio.current_time() - began >= over / limits.SHARD_REQUESTS_PER_S * 0.9
            assert not node.penalties
            many = tuple(range(limits.LEAVES_PER_REQUEST + 1))
            with pytest.raises(RemoteError):
                await greedy.request(node.peer, wire.GetLeaves(RUN, payload, many))
            assert {points for _, points, _ in node.penalties} == {10}  # it was tried twice
        assert node.handler_errors == []
        nursery.cancel_scope.cancel()


async def test_records_of_so_many_peers_are_kept_and_those_of_connected_ones_first(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("primed.protocols.hello.service.RECORDS_KEPT", 4)
    async with trio.open_nursery() as nursery:
        fabric = Fabric(nursery)
        node, friend = fabric.node(1), fabric.node(2)
        log: list[PeerId] = []

        def record_of(peer: PeerId) -> hello.NodeRecord:
            return hello.NodeRecord(peer, (), (), (), (), "", 1, NOW_MS + 3_600_000)

        service = hello.Hello(
            node, lambda: record_of(node.peer), node.key.sign, dict, lambda: NOW_MS
        )
        service.on_record(lambda record: log.append(record.peer))
        fabric.link(node, friend)
        for key in (friend.key, *(Key(100 + n) for n in range(20))):
            record = record_of(key.peer)
            service._keep(record, sign_record(record, key.sign))
        assert len(log) == 21 and len(service.records) == 4
        assert friend.peer in service.records
        nursery.cancel_scope.cancel()
