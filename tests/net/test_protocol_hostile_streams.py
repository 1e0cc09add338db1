"""Hostile peers on every protocol's stream: the handler ends, the node goes on (scenarios 21,
23)."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from msgspec import Raw

from primed.p2p.errors import RemoteError
from primed.p2p.network import Stream
from primed.protocols import events, hello, rollouts, shardcast, verdicts
from primed.protocols.by_run import RunServers
from primed.protocols.client import Client
from primed.protocols.framing import encode
from primed.protocols.hello.messages import ListRuns, RunList, responses
from primed.protocols.limits import REQUESTS_BURST, REQUESTS_PER_S, STREAMS_PER_PEER
from primed.protocols.rpc import NO_BODY, RequestHead, ResponseHead
from primed.protocols.topics import events_topic, shards_topic

from .memory_network import Fabric, MemoryNetwork
from .protocol_samples import NOW_MS, RUN, MemoryEvents

pytestmark = pytest.mark.trio
PROTOCOLS = [module.PROTOCOL for module in (hello, events, shardcast, rollouts, verdicts)]


def serve_everything(node: MemoryNetwork, folder: Path) -> None:
    key, rng = node.key, random.Random(1)
    record = hello.NodeRecord(key.peer, (), (), (), (), "", 1, NOW_MS)
    hello.Hello(node, lambda: record, key.sign, dict, lambda: NOW_MS)
    servers = RunServers(node)
    events.EventLog(servers, MemoryEvents(), RUN, key.peer, key.sign, lambda: NOW_MS, rng)
    store = shardcast.PayloadStore(folder / "payloads")
    shardcast.Shardcast(servers, store, RUN, key.peer, key.sign, rng)
    rollouts.Rollouts(
        servers, RUN, key.peer, key.sign, folder / "batches", lambda worker, counter: ""
    )
    verdicts.Verdicts(node, lambda run, commitment: None)


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[tuple[MemoryNetwork, MemoryNetwork]]:
    """(a node that serves everything, a peer that means harm)"""
    async with trio.open_nursery() as nursery:
        fabric = Fabric(nursery)
        node, attacker = fabric.node(1), fabric.node(66)
        serve_everything(node, folder)
        fabric.link(node, attacker)
        yield node, attacker
        assert node.handler_errors == []
        nursery.cancel_scope.cancel()


async def attack(node: MemoryNetwork, attacker: MemoryNetwork, protocol: str, data: bytes) -> None:
    """Send the bytes, end the stream; the handler must end, whatever it answers."""
    stream = await attacker.open_stream(node.peer, protocol)
    with trio.fail_after(30):
        try:
            await stream.write_all(data)
            while await stream.read_some(1 << 16):
                pass
        except RemoteError:
            pass
        await stream.close()


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def attacks(rng: random.Random) -> list[bytes]:
    nested = encode(RequestHead(1, 0, Raw(b"\x91" * 30_000 + b"\xc0")))
    unknown = encode(RequestHead(1, 0, Raw(b"\x91\xa7unknown")))
    attached = encode(RequestHead(1, 1 << 28, Raw(b"\x91\xa9list_runs")))
    return [
        *(b"\x80\x00\x00\x00" + b"x" * 1000, b"\xff\xff\xff\xff", b"\x00\x00\x00\x00"),
        *(framed(nested), framed(unknown), framed(attached), framed(b"\x91" * 60_000)),
        *(framed(rng.randbytes(rng.randrange(1, 200))) for _ in range(10)),
        *(rng.randbytes(rng.randrange(1, 200)) + b"\xff" * 4 for _ in range(5)),
    ]


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_scenario_21_any_bytes_on_any_protocol_cost_the_sender_and_nothing_else(
    tmp_path: Path, protocol: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with served(tmp_path) as (node, attacker):
        for data in attacks(random.Random(7)):
            before = len(node.penalties)
            await attack(node, attacker, protocol, data)
            assert len(node.penalties) == before + 1
        client = Client(attacker, hello.PROTOCOL, responses)
        assert await client.request(node.peer, ListRuns()) == RunList(())


async def test_any_bytes_on_any_topic_are_judged_without_an_error(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        fabric = Fabric(nursery)
        node, attacker = fabric.node(1), fabric.node(66)
        key, rng = node.key, random.Random(1)
        servers, store_of = RunServers(node), MemoryEvents()
        log = events.EventLog(servers, store_of, RUN, key.peer, key.sign, lambda: NOW_MS, rng)
        store = shardcast.PayloadStore(tmp_path)
        cast = shardcast.Shardcast(servers, store, RUN, key.peer, key.sign, rng)
        cast.follow(attacker.peer)
        nursery.start_soon(log.run)
        await trio.testing.wait_all_tasks_blocked()
        for topic in (events_topic(RUN), shards_topic(RUN, attacker.peer)):
            for data in attacks(rng):
                before = len(node.penalties)
                node.receive(attacker.peer, topic, data)
                assert len(node.penalties) == before + 1
        nursery.cancel_scope.cancel()


async def test_scenario_23_a_storm_of_requests_is_delayed_and_served(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with served(tmp_path) as (node, attacker):
        client, began = Client(attacker, hello.PROTOCOL, responses), trio.current_time()
        asked = REQUESTS_BURST + 48
        for _ in range(asked):
            await client.request(node.peer, ListRuns())
        assert trio.current_time() - began >= 47 / REQUESTS_PER_S
        assert attacker.streams_opened == 1 and not node.penalties


async def test_streams_of_one_peer_are_limited(tmp_path: Path) -> None:
    async with served(tmp_path) as (node, attacker):
        streams = [
            await attacker.open_stream(node.peer, hello.PROTOCOL)
            for _ in range(STREAMS_PER_PEER + 3)
        ]
        await trio.testing.wait_all_tasks_blocked()
        assert len(node.penalties) == 3
        for stream in streams:
            await stream.close()


async def test_a_client_repeats_on_a_fresh_stream_when_the_old_one_died(tmp_path: Path) -> None:
    async with served(tmp_path) as (node, other):
        client = Client(other, hello.PROTOCOL, responses)
        await client.request(node.peer, ListRuns())
        for idle in client._idle.values():
            for frames in idle:
                await frames.reset()
        assert await client.request(node.peer, ListRuns()) == RunList(())
        assert other.streams_opened == 2


async def test_a_server_that_answers_nonsense_is_charged_by_the_client(
    autojump_clock: trio.testing.MockClock,
) -> None:
    answers = [
        framed(b"\xc1"),
        framed(encode(ResponseHead(999, "ok", 0, "", 0, NO_BODY))),
        framed(encode(ResponseHead(3, "ok", 0, "", 5, Raw(b"\x92\xa4runs\x90")))),
        framed(encode(ResponseHead(4, "denied", 0, "", 5, NO_BODY))),
        b"\x7f\xff\xff\xff",
        b"",
    ]
    async with trio.open_nursery() as nursery:
        fabric = Fabric(nursery)
        node, liar = fabric.node(1), fabric.node(66)
        left = list(answers)

        async def answer(wire: Stream) -> None:
            await wire.read_some(1 << 16)
            await wire.write_all(left.pop(0) or b"\x00")
            await wire.close()

        liar.handle(hello.PROTOCOL, answer)
        fabric.link(node, liar)
        client = Client(node, hello.PROTOCOL, responses)
        for _ in answers:
            with pytest.raises(RemoteError) as caught:
                await client.request(liar.peer, ListRuns())
            assert caught.value.peer == liar.peer
        assert len(node.penalties) == len(answers)
        nursery.cancel_scope.cancel()
