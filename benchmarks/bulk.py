"""`make bench NAME=bulk`: the bulk lane against libp2p streams and against plain TLS sockets.

Two processes on loopback. Each way brings the same bytes from the memory of one into the memory of
the other, in turns, with all that belongs to it (ticket, connection, handshake); medians of ROUNDS.
CPU is that of both processes, all threads. The payload figures are whole shardcast transfers:
found, fetched, verified and synced to disk, over the lane and over streams.
"""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]
import trio

from benchmarks.bulk_peer import LOCAL, PROFILE, PURPOSE, RUN, STREAM, WATCH
from benchmarks.figures import Figure, show
from benchmarks.loopwatch import LoopWatch
from primed.p2p import limits
from primed.p2p.bulk.certificate import Contexts
from primed.p2p.host import MEMBER_PROTOCOL, Libp2pNetwork
from primed.p2p.identity import Identity
from primed.p2p.network import BulkChannel, Stream
from primed.protocols.by_run import RunServers
from primed.protocols.shardcast import PayloadStore, Shardcast
from primed.verify.statements import Payload

if TYPE_CHECKING:
    from trio_typing import TaskStatus

MIB = 1 << 20
SIZE = 256 * MIB
ROUNDS = 5


@dataclass
class Measured:
    """Of one way, each round: wall seconds, CPU-seconds of both processes."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """MB a second."""
        return SIZE / 1e6 / median(self.wall_s)

    @property
    def cpu_rate(self) -> float:
        """MB a CPU-second, both ends together."""
        return SIZE / 1e6 / median(self.cpu_s)


class Bench:
    def __init__(self, network: Libp2pNetwork, process: psutil.Process, peer: bytes) -> None:
        self._network, self._process, self._peer = network, process, peer
        self._buffer = memoryview(bytearray(SIZE))
        self._contexts = Contexts(Identity.generate())

    async def measure(self, into: Measured, way: Callable[[], Awaitable[None]]) -> None:
        self._buffer[-1] = 0
        wall, cpu = time.perf_counter(), self._cpu_s()
        await way()
        into.wall_s.append(time.perf_counter() - wall)
        into.cpu_s.append(self._cpu_s() - cpu)

    def _cpu_s(self) -> float:
        other = self._process.cpu_times()
        return time.process_time() + float(other.user + other.system)

    async def bulk(self) -> None:
        def get(channel: BulkChannel) -> None:
            channel.send_all(SIZE.to_bytes(8, "big"))
            if not channel.recv_into(self._buffer):
                raise EOFError

        await self._network.bulk.converse(self._peer, PURPOSE, get)

    async def noise(self) -> None:
        stream = await self._network.open_stream(self._peer, STREAM)
        await stream.write_all(SIZE.to_bytes(8, "big"))
        got = 0
        while got < SIZE:
            data = await stream.read_some(limits.READ_BYTES)
            if not data:
                raise EOFError
            self._buffer[got : got + len(data)] = data
            got += len(data)
        await stream.close()

    async def tls(self, port: int) -> None:
        def get() -> None:
            raw = socket.create_connection(("127.0.0.1", port))
            with self._contexts.client.wrap_socket(raw) as tls:
                tls.sendall(SIZE.to_bytes(8, "big"))
                got = 0
                while got < SIZE:
                    got += tls.recv_into(self._buffer[got:]) or SIZE

        await trio.to_thread.run_sync(get)


class StreamsOnly(Libp2pNetwork):
    """The same network, to shardcast without a bulk lane."""

    @property
    def bulk(self) -> None:  # type: ignore[override]
        return None


async def joined(network: Libp2pNetwork, address: str, nursery: trio.Nursery) -> bytes:
    """Run the network, connected to the other process, whose peer id is returned."""

    async def ignore(stream: Stream) -> None:
        await stream.close()

    async def run(task_status: TaskStatus[bytes] = trio.TASK_STATUS_IGNORED) -> None:
        async with network.running([LOCAL], []):
            task_status.started(await network.connect(address))
            await trio.sleep_forever()

    network.handle(MEMBER_PROTOCOL, ignore)
    peer: bytes = await nursery.start(run)
    await trio.sleep(1.0)  # identify
    return peer


async def compare(address: str, port: int, process: psutil.Process) -> None:
    """Bytes from memory to memory."""
    bulk, noise, tls = Measured(), Measured(), Measured()
    async with trio.open_nursery() as nursery:
        network = Libp2pNetwork(Identity.generate(), profile=PROFILE)
        bench = Bench(network, process, await joined(network, address, nursery))
        ways = [
            (bulk, bench.bulk),
            (noise, bench.noise),
            (tls, lambda: bench.tls(port)),
        ]
        for round_ in range(ROUNDS + 1):
            for measured, way in ways[round_ % 3 :] + ways[: round_ % 3]:
                await bench.measure(measured if round_ else Measured(), way)  # the first warms up
        nursery.cancel_scope.cancel()
    unit, per_core = "MB/s", "MB/CPU-s"
    show(Figure("bulk_vs_noise_wall", bulk.rate, unit, "higher", noise.rate, 4, "ratio"))
    figure = Figure(
        "bulk_vs_noise_cpu", bulk.cpu_rate, per_core, "higher", noise.cpu_rate, 5, "ratio"
    )
    show(figure)
    show(Figure("bulk_vs_tls_wall", bulk.rate, unit, "higher", tls.rate, 0.5, "ratio"))
    show(Figure("bulk_vs_tls_cpu", bulk.cpu_rate, per_core, "higher", tls.cpu_rate))


async def pull(
    network: Libp2pNetwork, address: str, payload: Payload, process: psutil.Process
) -> tuple[Measured, str, float]:
    """A payload by shardcast, several times; with the longest callback of either loop."""
    measured, watch = Measured(), LoopWatch()
    async with trio.open_nursery() as nursery:
        peer = await joined(network, address, nursery)
        bench = Bench(network, process, peer)
        await stall_of_peer(network, peer)
        trio.lowlevel.add_instrument(watch)
        for _ in range(ROUNDS // 2):
            with tempfile.TemporaryDirectory() as folder:
                store, rng = PayloadStore(Path(folder)), random.Random(2)
                identity = Identity.generate()
                cast = Shardcast(RunServers(network), store, RUN, identity.peer, identity.sign, rng)
                async with trio.open_nursery() as serving:
                    serving.start_soon(cast.run)
                    cast.expect(payload, peer)

                    async def whole(cast: Shardcast = cast) -> None:
                        await cast.wait(payload)

                    await bench.measure(measured, whole)
                    serving.cancel_scope.cancel()
        trio.lowlevel.remove_instrument(watch)
        stalls = [(watch.longest_s, watch.in_task), await stall_of_peer(network, peer)]
        nursery.cancel_scope.cancel()
    longest_s, where = max(stalls)
    return measured, where, longest_s


async def stall_of_peer(network: Libp2pNetwork, peer: bytes) -> tuple[float, str]:
    """The longest callback over there since the last question."""
    stream = await network.open_stream(peer, WATCH)
    text = b""
    while data := await stream.read_some(1024):
        text += data
    await stream.close()
    seconds, _, where = text.decode().partition(" ")
    return float(seconds), where


async def payloads(address: str, payload: Payload, process: psutil.Process) -> None:
    by_bulk = Libp2pNetwork(Identity.generate(), profile=PROFILE)
    bulk, where, longest_s = await pull(by_bulk, address, payload, process)
    by_streams = StreamsOnly(Identity.generate(), profile=PROFILE)
    streams, _, streams_longest_s = await pull(by_streams, address, payload, process)
    show(Figure("payload_bulk_vs_streams_wall", bulk.rate, "MB/s", "higher", streams.rate))
    show(
        Figure("payload_bulk_vs_streams_cpu", bulk.cpu_rate, "MB/CPU-s", "higher", streams.cpu_rate)
    )
    stall_ms, beside = 1e3 * longest_s, 1e3 * streams_longest_s
    about = {"in_task": where}
    show(Figure("loop_stall_ms", stall_ms, "ms", "lower", beside, 50, about=about))


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.bulk_peer", folder, str(SIZE)]
        with subprocess.Popen(  # noqa: ASYNC220  started once, before anything is measured
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            try:
                address, port, root, size, leaf = process.stdout.readline().split()
                payload = Payload(bytes.fromhex(root), int(size), int(leaf))
                await compare(address, int(port), psutil.Process(process.pid))
                await payloads(address, payload, psutil.Process(process.pid))
            finally:
                process.stdin.close()


if __name__ == "__main__":
    trio.run(main)
