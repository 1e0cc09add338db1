"""A peer's quota is for all runs together: a node of several runs asks within it. Simulated time."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from msgspec import Struct

from primed.p2p.buckets import TokenBucket
from primed.p2p.network import Handler, Stream
from primed.protocols import events, rollouts, shardcast
from primed.protocols.by_run import RunServers
from primed.protocols.client import Client
from primed.protocols.disk import inline
from primed.protocols.events.messages import GetHeads
from primed.protocols.limits import CLIENT_STREAMS_PER_PEER
from primed.protocols.rollouts.messages import Get
from primed.protocols.rpc import Refused
from primed.protocols.shardcast.messages import GetHave, GetLeaves
from primed.verify.statements import Payload

from .memory_network import Fabric, MemoryNetwork
from .protocol_samples import NOW_MS, MemoryEvents

pytestmark = pytest.mark.trio
RUNS = [bytes([number]) * 32 for number in (1, 2, 3)]
PAYLOAD = Payload(bytes(32), 1 << 20, 1 << 16)


class Node:
    """Takes part in three runs."""

    def __init__(self, network: MemoryNetwork, folder: Path) -> None:
        servers, key, rng = RunServers(network), network.key, random.Random(1)
        self.asking: list[tuple[Client[Any], Struct]] = []
        for number, run in enumerate(RUNS):
            here = folder / str(number)
            log = events.EventLog(
                servers, MemoryEvents(), run, key.peer, key.sign, lambda: NOW_MS, rng
            )
            store = shardcast.PayloadStore(here / "payloads")
            cast = shardcast.Shardcast(servers, store, run, key.peer, key.sign, rng)
            batches = rollouts.Rollouts(
                servers, run, key.peer, key.sign, here / "batches", lambda worker, counter: ""
            )
            self.asking += [
                (log._sync._client, GetHeads(run, bytes(32))),
                (cast._talk, GetHave(run, PAYLOAD)),
                (cast.lanes._client, GetLeaves(run, PAYLOAD, (0,))),
                (batches._client, Get(run, bytes(32))),
            ]


class Watched:
    """How many streams of each protocol were open at a time."""

    def __init__(self, network: MemoryNetwork) -> None:
        self.open: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        for protocol, handler in network.handlers.items():
            network.handlers[protocol] = self._counting(protocol, handler)

    def _counting(self, protocol: str, handler: Handler) -> Handler:
        async def handle(stream: Stream) -> None:
            self.open[protocol] += 1
            self.most[protocol] = max(self.most[protocol], self.open[protocol])
            try:
                await handler(stream)
            finally:
                self.open[protocol] -= 1

        return handle


@pytest.fixture
def delays(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """How long the servers made requests wait."""
    told: list[float] = []

    class Telling(TokenBucket):
        def delay(self, now_s: float, cost: float = 1.0) -> float:
            if delay_s := super().delay(now_s, cost):
                told.append(delay_s)
            return delay_s

    monkeypatch.setattr("primed.protocols.server.TokenBucket", Telling)
    yield told


async def test_three_runs_ask_one_peer_no_more_than_it_allows(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, delays: list[float]
) -> None:
    async def ask(client: Client[Any], message: Struct) -> None:
        for _ in range(25):
            try:
                await client.request(node.peer, message)
            except Refused:
                answered.append("not here")
            else:
                answered.append("ok")

    answered: list[str] = []
    with inline():
        async with trio.open_nursery() as nursery:
            fabric = Fabric(nursery)
            node, us = fabric.node(1), fabric.node(2)
            Node(node, tmp_path / "node")
            watched, asking = Watched(node), Node(us, tmp_path / "us").asking
            fabric.link(node, us)
            async with trio.open_nursery() as askers:
                for client, message in asking:
                    for _ in range(4):
                        askers.start_soon(ask, client, message)
            nursery.cancel_scope.cancel()
    assert len(answered) == 25 * 4 * len(asking)
    assert not node.penalties and not node.handler_errors
    assert not delays
    assert watched.most == {
        events.PROTOCOL: CLIENT_STREAMS_PER_PEER,
        rollouts.PROTOCOL: CLIENT_STREAMS_PER_PEER,
        shardcast.PROTOCOL: 2 * CLIENT_STREAMS_PER_PEER,  # short words and leaves
    }
