"""Nodes that hand a payload on, over the simulated network: real shardcast, real files."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Literal

import trio

from primed.p2p import peerid
from primed.p2p.identity import Identity
from primed.p2p.simnet import Access, Host, SimNetwork, World, run
from primed.protocols import disk
from primed.protocols.by_run import RunServers
from primed.protocols.hello import PROTOCOL as HELLO
from primed.protocols.shardcast import News, PayloadStore, Shardcast
from primed.verify.statements import Payload

from .cast import identity_of

RUN = bytes(32)
KIB, MIB = 1024, 1 << 20
Place = Literal["public", "hidden", "relay"]
LINE = Access(latency_s=0.02, bytes_per_s=1_000_000.0)


class Node:
    """A machine. `lives`: how often its process was started."""

    def __init__(self, swarm: PayloadSwarm, number: int, access: Access, place: Place) -> None:
        self.swarm = swarm
        self.identity: Identity = identity_of(1, number)
        self.peer = self.identity.peer
        self.folder = swarm.folder / str(number)
        address = f"/ip4/10.0.{number}.1/tcp/4101"
        self.host = swarm.world.add(
            Host(
                f"n{number}",
                self.peer,
                address,
                access,
                is_public=place != "hidden",
                is_relay=place == "relay",
            )
        )
        self.news: list[News] = []
        self.lives = 0
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    async def live(self, misbehave: Callable[[Node], None] = lambda node: None) -> None:
        """A process from start to end. `misbehave` replaces what it would do."""
        self.lives += 1
        self._ended = trio.Event()
        self.network = SimNetwork(self.swarm.world, self.host)
        self.network.handle(HELLO, _ignore)
        self.store = PayloadStore(self.folder)
        servers, rng = RunServers(self.network), random.Random(self.peer)
        sign = self.identity.sign
        self.cast = Shardcast(servers, self.store, RUN, self.peer, sign, rng)
        self.cast.on_news(self.news.append)
        misbehave(self)
        first = self.swarm.nodes[0]
        join = [] if self is first else [first.address]
        try:
            with trio.CancelScope() as self._scope:
                async with self.network.running([], join):
                    await self.cast.run()
        finally:
            self._ended.set()

    async def die(self) -> None:
        """As kill -9."""
        self.network.stop()
        self._scope.cancel()
        await self._ended.wait()

    @property
    def is_up(self) -> bool:
        return self.host.network is not None

    @property
    def address(self) -> str:
        return f"{self.host.address}/p2p/{peerid.to_text(self.peer)}"

    def share(self, payload: Payload) -> float:
        have = self.store.have(payload)
        return have.total / payload.leaves if have else 0.0

    def has(self, payload: Payload) -> bool:
        """The whole file, bit by bit as it was made."""
        path = self.store.path(payload)
        return path is not None and path.read_bytes() == self.swarm.data


class PayloadSwarm:
    """The first node is the origin of one payload, and everybody's bootstrap peer."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.folder = folder
        self.world = World(1)
        self.data = random.Random(size_bytes).randbytes(size_bytes)
        self.nodes: list[Node] = []
        self.nursery: trio.Nursery

    def add(
        self,
        count: int = 1,
        access: Access = LINE,
        misbehave: Callable[[Node], None] | None = None,
        place: Place = "public",
    ) -> list[Node]:
        added = [Node(self, len(self.nodes) + each, access, place) for each in range(count)]
        for node in added:
            self.nodes.append(node)
            self.nursery.start_soon(node.live, misbehave or (lambda node: None))
        return added

    async def publish(self) -> Payload:
        """By the origin, once the others are connected."""
        wanted = min(3, len(self.nodes) - 1)
        await self.until(lambda: all(node.is_up for node in self.nodes))
        await self.until(lambda: all(len(n.network.connected()) >= wanted for n in self.nodes))
        return await self.make(self.nodes[0])

    async def make(self, node: Node) -> Payload:
        """A node that has the payload from elsewhere."""
        file = self.folder / "weights"
        file.write_bytes(self.data)
        return await node.cast.add(file)

    def expect(self, payload: Payload, nodes: Iterable[Node]) -> None:
        for node in nodes:
            node.cast.expect(payload, self.nodes[0].peer)

    async def until(self, look: Callable[[], bool], at_most_s: float = 300.0) -> float:
        """How long it took."""
        began = trio.current_time()
        with trio.fail_after(at_most_s):
            while not look():
                await trio.sleep(0.1)
        return trio.current_time() - began

    def points(self, peer: bytes) -> int:
        """That others took off a peer."""
        return sum(each.points for each in self.world.penalties if each.peer == peer)

    def faults(self) -> list[Exception]:
        return [error for node in self.nodes for error in node.network.handler_errors]


async def _ignore(stream: object) -> None:
    """Members speak hello; nothing is said here."""


def play(tell: Callable[[PayloadSwarm], Awaitable[None]], size_bytes: int = 2 * MIB) -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="primed-sim-") as folder, disk.inline():
            swarm = PayloadSwarm(Path(folder), size_bytes)
            async with trio.open_nursery() as nursery:
                swarm.nursery = nursery
                nursery.start_soon(swarm.world.run)
                await tell(swarm)
                nursery.cancel_scope.cancel()
            assert not swarm.faults()

    run(main, seed=1)
