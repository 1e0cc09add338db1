"""Request storms (scenario 23): one peer waits for itself, all together wait for the node, and our
own client stays within what the other side allows. Simulated time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from msgspec import Raw

from primed.p2p.errors import RemoteError
from primed.p2p.network import PeerId
from primed.protocols import hello
from primed.protocols.client import Client
from primed.protocols.framing import Framed, encode
from primed.protocols.hello.messages import ListRuns, RunList, requests, responses
from primed.protocols.limits import (
    ALL_REQUESTS_BURST,
    ALL_REQUESTS_PER_S,
    REQUESTS_BURST,
    REQUESTS_PER_S,
    STREAM_IDLE_S,
    STREAMS_PER_PEER,
)
from primed.protocols.rpc import Attachment, RequestHead
from primed.protocols.server import Reply, Server

from .memory_network import Fabric, MemoryNetwork

pytestmark = pytest.mark.trio


class Served:
    """A node that lists its runs, and when it was asked by whom."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.node = fabric.node(1)
        self.asked: list[tuple[PeerId, float]] = []
        Server(self.node, hello.PROTOCOL, requests, self._answer)

    async def _answer(self, peer: PeerId, message: object, _: Attachment) -> Reply:
        self.asked.append((peer, trio.current_time()))
        return Reply(RunList(()))

    def peer(self, seed: int) -> MemoryNetwork:
        peer = self.fabric.node(seed)
        self.fabric.link(self.node, peer)
        return peer

    def times(self, peer: PeerId | None = None) -> list[float]:
        return [at for asker, at in self.asked if peer in (None, asker)]


@asynccontextmanager
async def served() -> AsyncIterator[Served]:
    async with trio.open_nursery() as nursery:
        yield Served(Fabric(nursery))
        nursery.cancel_scope.cancel()


def most_within(times: list[float], seconds: float) -> int:
    return max(sum(start <= at < start + seconds for at in times) for start in times)


async def storm(attacker: MemoryNetwork, victim: PeerId) -> None:
    """Requests on as many streams as a peer may have, four ahead of the answers on each."""
    request = encode(RequestHead(1, 0, Raw(encode(ListRuns()))))

    async def ask(frames: Framed) -> None:
        for _ in range(4):
            await frames.write(request)
        while await frames.read(1 << 16, first_byte_s=1e9):
            await frames.write(request)

    async with trio.open_nursery() as nursery:
        for _ in range(STREAMS_PER_PEER):
            frames = Framed(await attacker.open_stream(victim, hello.PROTOCOL))
            nursery.start_soon(ask, frames)


async def test_scenario_23_a_peer_that_storms_gets_its_share_and_others_do_not_wait(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with served() as one:
        attacker, honest = one.peer(66), one.peer(2)
        client, waits = Client(honest, hello.PROTOCOL, responses), []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(storm, attacker, one.node.peer)
            for _ in range(20):
                began = trio.current_time()
                await client.request(one.node.peer, ListRuns())
                waits.append(trio.current_time() - began)
                await trio.sleep(0.5)
            nursery.cancel_scope.cancel()
        times = one.times(attacker.peer)
        assert most_within(times, 5.0) <= REQUESTS_BURST + 5.0 * REQUESTS_PER_S + 1
        assert len(times) >= 8.0 * REQUESTS_PER_S  # delayed, not refused
        assert max(waits) < 0.1
        assert not one.node.penalties


@pytest.mark.parametrize("count", [64, 376])  # 376: as many as a server lets in
async def test_scenario_23_all_peers_together_wait_for_the_node_in_turns(
    count: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with served() as one:
        attackers, honest = [one.peer(100 + n) for n in range(count)], one.peer(2)
        client, waits = Client(honest, hello.PROTOCOL, responses), []
        async with trio.open_nursery() as nursery:
            for attacker in attackers:
                nursery.start_soon(storm, attacker, one.node.peer)
            for _ in range(8):
                began = trio.current_time()
                await client.request(one.node.peer, ListRuns())
                waits.append(trio.current_time() - began)
                await trio.sleep(0.5)
            nursery.cancel_scope.cancel()
        late = [at for at in one.times() if at > 1.0]
        assert most_within(late, 2.0) <= 2.0 * ALL_REQUESTS_PER_S * 1.05
        assert len(one.times()) > ALL_REQUESTS_BURST
        assert max(waits) < count / ALL_REQUESTS_PER_S + 0.5


async def test_scenario_23_our_client_never_asks_faster_than_it_may(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with served() as one:
        us = one.peer(2)
        client = Client(us, hello.PROTOCOL, responses)

        async def ask_often() -> None:
            for _ in range(40):
                await client.request(one.node.peer, ListRuns())

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask_often)
        times = one.times()
        assert len(times) == 200
        tokens, at = float(REQUESTS_BURST), times[0]
        for now in times:  # the other side's bucket never runs dry
            tokens, at = min(REQUESTS_BURST, tokens + (now - at) * REQUESTS_PER_S) - 1, now
            assert tokens >= -1e-6


async def test_an_idle_stream_is_ended_and_the_next_request_opens_another(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with served() as one:
        us = one.peer(2)
        client = Client(us, hello.PROTOCOL, responses)
        await client.request(one.node.peer, ListRuns())
        await trio.sleep(STREAM_IDLE_S + 1)
        [idle] = client._idle[one.node.peer]
        with pytest.raises(RemoteError):
            if not await idle.read(1 << 16):
                raise RemoteError("ended")
        await client.request(one.node.peer, ListRuns())
        assert us.streams_opened == 2 and not one.node.penalties
