"""Gossip among real hosts in one process for `benchmarks.p2p`: what arrives, and what it costs.

Twenty libp2p hosts on loopback follow one topic. Shards come from one host (a learner's push),
events from all in turn. The baseline is the library's way to pass messages on, see
`benchmarks.broadcast_node.StockFlow`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from benchmarks.broadcast_node import StockFlow
from benchmarks.figures import Figure
from primed.p2p import limits
from primed.p2p.host import MEMBER_PROTOCOL, Libp2pNetwork
from primed.p2p.identity import Identity
from primed.p2p.network import Acceptance, Stream

if TYPE_CHECKING:
    from trio_typing import TaskStatus

HOSTS = 20
TOPIC = "benchmark"
LOCAL = "/ip4/127.0.0.1/tcp/0"
READY_S = 90.0
ARRIVE_S = 30.0  # what has not come by then is lost
MESH_S = 5.0  # for heartbeats to graft


@dataclass(frozen=True)
class Load:
    """What is published: so many messages of a size, one every interval, by the first host or by
    all in turn."""

    name: str
    messages: int
    size_bytes: int
    every_s: float
    by_all: bool


SHARDS = Load("shards", messages=48, size_bytes=64 * 1024, every_s=0.25, by_all=False)
EVENTS = Load("events", messages=300, size_bytes=512, every_s=0.1, by_all=True)


class Swarm:
    """Hosts that follow the topic, and how often each unique message came to each."""

    def __init__(self, is_stock: bool) -> None:
        self.is_stock = is_stock
        self.delivered = 0
        self.networks = [self._host() for _ in range(HOSTS)]

    def _host(self) -> Libp2pNetwork:
        network = Libp2pNetwork(Identity.generate(), profile=limits.HOME.on_one_machine())
        network.handle(MEMBER_PROTOCOL, _silent)
        network.subscribe(TOPIC, lambda *_: Acceptance.ACCEPT, self._deliver)
        return network

    def _deliver(self, sender: bytes, data: bytes) -> None:
        self.delivered += 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            join: Sequence[str] = []
            for network in self.networks:
                await nursery.start(self._run, network, join)
                join = join or network.listen_addresses()
            await self._until(self._is_connected, READY_S)
            await trio.sleep(MESH_S)
            yield
            nursery.cancel_scope.cancel()

    async def _run(
        self,
        network: Libp2pNetwork,
        join: Sequence[str],
        task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        async with network.running([LOCAL], join):
            if self.is_stock:
                router = network._running().gossip.router
                router.flow = StockFlow(router, router._start)
            task_status.started()
            await trio.sleep_forever()

    def _is_connected(self) -> bool:
        """Each has as many peers as it looks for, and knows that they follow the topic."""
        wanted = min(HOSTS - 1, limits.HOME.target_peers)
        return all(
            sum(TOPIC in info.topics for info in network.peers()) >= wanted
            for network in self.networks
        )

    async def measure(self, load: Load) -> tuple[float, float]:
        """(share delivered, payload bytes received for each byte that had to be)."""
        self.delivered, before = 0, self._received_bytes()
        wanted = load.messages * (HOSTS - 1)
        for number in range(load.messages):
            publisher = self.networks[number % HOSTS if load.by_all else 0]
            await publisher.publish(TOPIC, os.urandom(load.size_bytes))
            await trio.sleep(load.every_s)
        await self._until(lambda: self.delivered >= wanted, ARRIVE_S)
        await trio.sleep(2.0)  # duplicates under way
        needed = load.messages * load.size_bytes * (HOSTS - 1)
        return self.delivered / wanted, (self._received_bytes() - before) / needed

    def _received_bytes(self) -> int:
        return sum(network.traffic.gossip_received_bytes for network in self.networks)

    async def _until(self, condition: Callable[[], bool], at_most_s: float) -> None:
        with trio.move_on_after(at_most_s):
            while not condition():
                await trio.sleep(0.1)


async def _silent(stream: Stream) -> None:
    await stream.read_some(1)


async def _measured(is_stock: bool) -> dict[Load, tuple[float, float]]:
    swarm = Swarm(is_stock)
    async with swarm.running():
        return {load: await swarm.measure(load) for load in (SHARDS, EVENTS)}


def figures() -> Iterator[Figure]:
    """gossip_delivery: messages that were delivered, of those published times receivers.
    gossip_amplification: payload bytes received, of unique bytes times receivers."""
    ours, stock = trio.run(_measured, False), trio.run(_measured, True)
    for load in (SHARDS, EVENTS):
        about = {"hosts": HOSTS, "messages": load.messages, "message_bytes": load.size_bytes}
        (delivery, amplification), (by_stock, stock_amplification) = ours[load], stock[load]
        kind = "" if load is SHARDS else f".{load.name}"
        yield Figure(f"gossip_delivery{kind}", delivery, "", "higher", by_stock, 1.0, about=about)
        yield Figure(
            f"gossip_amplification{kind}",
            amplification,
            "x",
            "lower",
            stock_amplification,
            about=about,
        )
