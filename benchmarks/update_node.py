"""One node of `benchmarks.update`: a real libp2p host, shardcast, and for a worker its engine's child.

Orders come as JSON lines on standard input, news go out as JSON lines. argv: folder, cap in bytes a
second. Who has nobody to join is the learner, the others are workers. A version is announced as in a run, by its manifest over gossip; the
worker pulls what it names, has its child make the weights file, check its digest and load it, and is
done when the child has generated a first (tiny) batch with it.
"""

from __future__ import annotations

import gc
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import psutil  # type: ignore[import-untyped]
import trio

from benchmarks import smollm
from benchmarks.broadcast_node import _next, say
from benchmarks.loopwatch import LoopWatch
from primed.node.supervisor import Child, Supervisor
from primed.p2p import limits
from primed.p2p.host import MEMBER_PROTOCOL, Libp2pNetwork
from primed.p2p.identity import Identity
from primed.p2p.network import Acceptance, Stream
from primed.p2p.uploads import Uploads
from primed.protocols.by_run import RunServers
from primed.protocols.disk import on_disk
from primed.protocols.shardcast import PayloadStore, Shardcast
from primed.training import demo
from primed.training.messages import Configure, Generate, Generated, Materialise, Materialised
from primed.verify.runspec import RunSpec, Sampling
from primed.verify.statements import Manifest, version_of

TOPIC = "manifests"
LONG_S = 600.0
TINY = Sampling(groups=1, group_size=2, max_new_tokens=2)


class Node:
    def __init__(self, folder: Path, cap_bytes_per_s: float) -> None:
        identity = Identity.generate()
        self.peer, self.folder, self.is_worker = identity.peer, folder, False
        spec: RunSpec = msgspec.structs.replace(
            demo.run_spec(identity.peer, smollm.DIGEST), model=smollm.SPEC, sampling=TINY
        )
        self.spec = msgspec.msgpack.encode(spec)
        self.run_id = bytes(32)  # of all of them: each has its own originator
        self.network = Libp2pNetwork(
            identity, profile=limits.HOME.on_one_machine(), uploads=Uploads(cap_bytes_per_s)
        )
        self.network.handle(MEMBER_PROTOCOL, _silent)
        store, rng = PayloadStore(folder / "payloads"), random.Random(identity.peer)
        servers = RunServers(self.network)
        self.cast = Shardcast(servers, store, self.run_id, identity.peer, identity.sign, rng)
        self.supervisor = Supervisor(folder)
        self.watch = LoopWatch()
        self._heard, self._manifests = trio.open_memory_channel[tuple[Manifest, float]](8)
        self._base, self._counter = Path(), 0
        self.network.subscribe(TOPIC, lambda *_: Acceptance.ACCEPT, self._hear)

    def _hear(self, sender: bytes, data: bytes) -> None:
        if self.is_worker:
            manifest = msgspec.msgpack.decode(data, type=Manifest)
            self._heard.send_nowait((manifest, time.monotonic()))

    async def run(self) -> None:
        trio.lowlevel.add_instrument(self.watch)
        orders = trio.lowlevel.FdStream(os.dup(0))
        order = await _next(orders)
        self.is_worker = bool(order["join"])
        async with self.network.running(["/ip4/127.0.0.1/tcp/0"], order["join"]):
            say(listening=self.network.listen_addresses(), peer=self.peer.hex())
            async with self.supervisor.running(), trio.open_nursery() as nursery:
                nursery.start_soon(self.cast.run)
                if self.is_worker:
                    configure = Configure(0, "engine", self.spec, self.run_id, self.peer)
                    child = self.supervisor.start("engine", configure)
                    nursery.start_soon(self._follow, child)
                    await self._obey(orders, child)
                else:
                    await self._obey(orders, None)
                nursery.cancel_scope.cancel()

    async def _obey(self, orders: trio.lowlevel.FdStream, child: Child | None) -> None:
        while order := await _next(orders):
            if "follow" in order:
                self.cast.follow(bytes.fromhex(order["follow"]))
            elif "base" in order and child is not None:
                self._base = Path(order["base"])
                await child.ready(LONG_S)
                await self._generate(child, self._base)
                say(prepared=order["base"])
            elif "publish" in order:
                await self._publish(**order["publish"])
            elif "restart" in order:
                self.watch.restart()
            elif "describe" in order:
                say(description=self.describe())

    # ---- the learner

    async def _publish(self, file: str, weights: str, step: int, is_delta: bool) -> None:
        """As node.roles.learner does it."""
        began = time.monotonic()
        payload = await self.cast.add(Path(file))
        manifest = Manifest(
            learner=self.peer,
            kind="step",
            step=step,
            parents=(bytes(32),),
            weights=bytes.fromhex(weights),
            delta=payload if is_delta else None,
            snapshot=None if is_delta else payload,
            consumed=(),
        )
        await self.network.publish(TOPIC, msgspec.msgpack.encode(manifest))
        is_pushed = await self.cast.push(payload, self.peer)
        say(published={"step": step, "at": began, "is_pushed": is_pushed})

    # ---- a worker

    async def _follow(self, child: Child) -> None:
        async for manifest, heard in self._manifests:
            (payload,) = manifest.payloads()
            self.cast.expect(payload, manifest.learner)
            file = await self.cast.wait(payload)
            arrived = time.monotonic()
            made = await self._materialise(child, manifest, file)
            applied = time.monotonic()
            await self._generate(child, made)
            times = {
                "heard": heard,
                "arrived": arrived,
                "made": applied,
                "loaded": time.monotonic(),
            }
            say(updated={"step": manifest.step, **times})
            await on_disk(made.unlink)
            await self.cast.forget(payload)

    async def _materialise(self, child: Child, manifest: Manifest, file: Path) -> Path:
        out = self.folder / f"{manifest.step}.safetensors"
        is_delta = manifest.delta is not None
        request = Materialise(
            id=0,
            version=version_of(manifest),
            weights=manifest.weights,
            out_path=str(out),
            snapshot_path=None if is_delta else str(file),
            base_path=str(self._base) if is_delta else None,
            delta_path=str(file) if is_delta else None,
        )
        await child.ask(request, Materialised, timeout_s=LONG_S, name="weights")
        return out

    async def _generate(self, child: Child, weights: Path) -> None:
        self._counter += 1
        out = str(self.folder / "batch")
        version = self._counter.to_bytes(32, "big")
        request = Generate(0, self._counter, version, str(weights), out)
        await child.ask(request, Generated, timeout_s=LONG_S, name="a batch")

    def describe(self) -> dict[str, Any]:
        children = (psutil.Process(view.pid) for view in self.supervisor.status() if view.pid)
        return {
            "cpu_s": time.process_time() + sum(sum(each.cpu_times()[:2]) for each in children),
            "followers": sum(TOPIC in info.topics for info in self.network.peers()),
            "bulk_bytes": self.cast.lanes.bulk_bytes,
            "stream_bytes": self.cast.lanes.stream_bytes,
            "gossip_bytes": self.cast.received_gossip_bytes,
            "loop_stall_s": self.watch.longest_s,
            "loop_stall_in": self.watch.in_task,
        }


async def _silent(stream: Stream) -> None:
    await stream.read_some(1)


if __name__ == "__main__":
    gc.freeze()  # as the daemon does
    trio.run(Node(Path(sys.argv[1]), float(sys.argv[2])).run)
