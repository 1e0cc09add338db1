"""One node of `benchmarks.broadcast`: a real libp2p host with an upload cap, in a process of its own.

Orders come as JSON lines on standard input, news go out as JSON lines. argv: folder, cap in bytes a
second, "ours" or "stock". Stock is the gossip of the library: a message goes to the whole mesh at
once, and who has it already is looked up only when it enters a queue. It runs on our queues and
under our cap, since the library's own queues lose three of four shards of such a burst.
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import trio
from libp2p.peer.id import ID

from benchmarks.loopwatch import LoopWatch
from primed.p2p import limits
from primed.p2p.host import MEMBER_PROTOCOL, Libp2pNetwork
from primed.p2p.identity import Identity
from primed.p2p.network import Acceptance, Stream
from primed.p2p.outbox import Letter, Outbox
from primed.p2p.shardflow import Shardflow
from primed.p2p.uploads import Uploads
from primed.protocols.by_run import RunServers
from primed.protocols.shardcast import PayloadStore, Shardcast
from primed.verify.statements import Payload

RUN = bytes(range(32))
TOPIC = "benchmark"


class StockFlow(Shardflow):
    """The library's rules."""

    async def send_own(self, to: list[ID], letter: Letter) -> None:
        self.send_on(to, letter)

    def send_on(self, to: list[ID], letter: Letter, *, is_ours_to_spread: bool = False) -> bool:
        for peer_id in to:
            outbox = self._owner.outbox(peer_id)
            if outbox is not None and not self.holders.has(peer_id, letter.message_id):
                outbox.put(letter._replace(message_id=b""))  # not looked at again
        return True

    async def may_send(self, outbox: Outbox) -> None:
        """In any order."""


class Node:
    def __init__(self, folder: Path, cap_bytes_per_s: float, is_stock: bool) -> None:
        identity = Identity.generate()
        self.network = Libp2pNetwork(
            identity,
            profile=limits.HOME.on_one_machine(),
            uploads=Uploads(cap_bytes_per_s),
        )
        self.network.handle(MEMBER_PROTOCOL, _silent)
        self.store = PayloadStore(folder / "payloads")
        rng = random.Random(identity.peer)
        servers = RunServers(self.network)
        if is_stock:
            limits.GOSSIP_QUEUE_BYTES = 1 << 30  # or the burst would be lost
        self.cast = Shardcast(servers, self.store, RUN, identity.peer, identity.sign, rng)
        self.watch = LoopWatch()
        self.got = 0
        self.wanted = 0
        self._is_stock = is_stock
        self.network.subscribe(TOPIC, lambda *_: Acceptance.ACCEPT, self._receive)

    def _receive(self, sender: bytes, data: bytes) -> None:
        self.got += 1
        if self.got == self.wanted:
            say(gossip_done=time.monotonic())

    async def run(self) -> None:
        trio.lowlevel.add_instrument(self.watch)
        orders = trio.lowlevel.FdStream(os.dup(0))
        order = await _next(orders)
        async with self.network.running(["/ip4/127.0.0.1/tcp/0"], order["join"]):
            if self._is_stock:
                router = self.network._running().gossip.router
                router.flow = StockFlow(router, router._start)
            say(listening=self.network.listen_addresses(), peer=self.network.peer.hex())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.cast.run)
                await self._obey(orders, nursery)
                nursery.cancel_scope.cancel()

    async def _obey(self, orders: trio.lowlevel.FdStream, nursery: trio.Nursery) -> None:
        while order := await _next(orders):
            if "add" in order:
                payload = await self.cast.add(Path(order["add"]))
                say(added=[payload.root.hex(), payload.size_bytes, payload.leaf_bytes])
            elif "expect" in order:
                root, size_bytes, leaf_bytes = order["expect"]
                payload = Payload(bytes.fromhex(root), size_bytes, leaf_bytes)
                self.cast.expect(payload, bytes.fromhex(order["learner"]))
                nursery.start_soon(self._wait, payload)
            elif "await_messages" in order:
                self.wanted = order["await_messages"]
            elif "publish" in order:
                nursery.start_soon(self._publish, order["publish"], order["bytes"])
            elif "restart_watch" in order:
                self.watch.restart()
            elif "describe" in order:
                say(description=self.describe())

    async def _wait(self, payload: Payload) -> None:
        path = await self.cast.wait(payload)
        say(done=time.monotonic(), path=str(path))

    async def _publish(self, count: int, size_bytes: int) -> None:
        say(gossip_began=time.monotonic())
        for _ in range(count):
            await self.network.publish(TOPIC, os.urandom(size_bytes))

    def describe(self) -> dict[str, Any]:
        traffic = self.network.traffic
        peers = self.network.peers()
        return {
            "peers": len(peers),
            "followers": sum(TOPIC in info.topics for info in peers),
            "pulled_bytes": self.cast.received_pulled_bytes,
            "bulk_bytes": self.cast.lanes.bulk_bytes,
            "gossip_sent_bytes": traffic.gossip_sent_bytes,
            "gossip_duplicates": traffic.gossip_duplicates,
            "gossip_messages": traffic.gossip_messages,
            "stream_sent_bytes": traffic.stream_sent_bytes,
            "bulk_sent_bytes": traffic.bulk_sent_bytes,
            "loop_stall_s": self.watch.longest_s,
            "loop_stall_in": self.watch.in_task,
            "cpu_s": time.process_time(),
        }


async def _silent(stream: Stream) -> None:
    await stream.read_some(1)


_buffer = bytearray()


async def _next(orders: trio.lowlevel.FdStream) -> dict[str, Any]:
    """The next order; empty at the end."""
    while b"\n" not in _buffer:
        data = await orders.receive_some(65536)
        if not data:
            return {}
        _buffer.extend(data)
    line, _, rest = bytes(_buffer).partition(b"\n")
    _buffer[:] = rest
    found: dict[str, Any] = json.loads(line)
    return found


def say(**news: Any) -> None:
    sys.stdout.write(json.dumps(news) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    gc.freeze()  # as the daemon does
    node = Node(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "stock")
    trio.run(node.run)
