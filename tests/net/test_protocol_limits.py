"""What all peers together may make a server hold or do at a time, each limit exceeded. Simulated
time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from msgspec import Raw

from primed.p2p.errors import RemoteError
from primed.p2p.network import PeerId
from primed.protocols import hello, limits, shardcast
from primed.protocols.client import Client
from primed.protocols.disk import inline
from primed.protocols.framing import encode
from primed.protocols.hello.messages import ListRuns, RunList, requests, responses
from primed.protocols.hello.records import sign_record
from primed.protocols.rpc import Attachment, RequestHead
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


class Unread:
    """A stream whose peer asks once and reads no answer."""

    def __init__(self, peer: PeerId) -> None:
        asked = encode(RequestHead(1, 0, Raw(encode(ListRuns()))))
        self.peer = peer
        self._asked = len(asked).to_bytes(4, "big") + asked

    async def read_some(self, max_bytes: int) -> bytes:
        asked, self._asked = self._asked, b""
        if not asked:
            await trio.sleep_forever()
        return asked

    async def write_all(self, data: bytes) -> None:
        await trio.sleep_forever()

    async def close(self) -> None: ...

    async def reset(self) -> None: ...


@pytest.mark.parametrize(("runs", "peers"), [(1, 100), (256, 20)])
async def test_peers_that_do_not_read_their_answers_keep_nobody_waiting(
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    runs: int,
    peers: int,
) -> None:
    """Small answers hold no place while they are written, large ones the peer's own share."""
    monkeypatch.setattr("primed.protocols.server.SMALL_ANSWER_BYTES", 1024)

    async def answer(peer: PeerId, message: object, _: Attachment) -> Reply:
        return Reply(RunList((bytes(32),) * runs))

    async with trio.open_nursery() as nursery:
        fabric = Fabric(nursery)
        node, honest = fabric.node(1), fabric.node(2)
        server = Server(node, hello.PROTOCOL, requests, answer)
        for number in range(peers):
            for _ in range(limits.STREAMS_PER_PEER):
                nursery.start_soon(server._serve, Unread(Key(100 + number).peer))
        await trio.sleep(1)
        fabric.link(node, honest)
        with trio.fail_after(1):
            await Client(honest, hello.PROTOCOL, responses).request(node.peer, ListRuns())
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
