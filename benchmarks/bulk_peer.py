"""The other process of `benchmarks.bulk`: sends bytes in every way that is compared.

Prints its multiaddr and the port of a plain TLS server, then serves until its stdin ends. argv: a
folder for payloads, the size of one in bytes.
"""

from __future__ import annotations

import random
import socket
import sys
import threading
from pathlib import Path

import trio

from benchmarks.loopwatch import LoopWatch
from primed.p2p import limits
from primed.p2p.bulk.certificate import Contexts
from primed.p2p.host import MEMBER_PROTOCOL, Libp2pNetwork
from primed.p2p.identity import Identity
from primed.p2p.network import BulkChannel, Stream
from primed.protocols.by_run import RunServers
from primed.protocols.shardcast import PayloadStore, Shardcast

PURPOSE, STREAM, WATCH = "bench", "/bench/bytes/1", "/bench/watch/1"
RUN = bytes(32)
LOCAL = "/ip4/127.0.0.1/tcp/0"
PIECE = random.Random(0).randbytes(1 << 20)
PROFILE = limits.HOME.on_one_machine()


def serve_bulk(channel: BulkChannel) -> None:
    head = bytearray(8)
    while channel.recv_into(head):
        for _ in range(int.from_bytes(head, "big") // len(PIECE)):
            channel.send_all(PIECE)


async def serve_stream(stream: Stream) -> None:
    """As many MiB as the first 8 bytes say; written as the library likes it best."""
    count = int.from_bytes(await stream.read_some(8), "big")
    for _ in range(count // len(PIECE)):
        await stream.write_all(PIECE)


def serve_tls(listener: socket.socket, contexts: Contexts) -> None:
    """Blocking sockets and nothing else: what the lane can hope for."""
    while True:
        raw, _ = listener.accept()
        with contexts.server.wrap_socket(raw, server_side=True) as tls:
            for _ in range(int.from_bytes(tls.recv(8), "big") // len(PIECE)):
                tls.sendall(PIECE)


async def main(folder: str, size: str) -> None:
    identity, watch = Identity.generate(), LoopWatch()
    network = Libp2pNetwork(identity, profile=PROFILE)
    network.bulk.serve(PURPOSE, serve_bulk)
    network.handle(STREAM, serve_stream)

    async def ignore(stream: Stream) -> None:
        await stream.close()

    async def tell(stream: Stream) -> None:
        await stream.write_all(f"{watch.longest_s} {watch.in_task}".encode())
        watch.restart()

    network.handle(MEMBER_PROTOCOL, ignore)
    network.handle(WATCH, tell)
    store = PayloadStore(Path(folder))
    rng = random.Random(1)
    cast = Shardcast(RunServers(network), store, RUN, identity.peer, identity.sign, rng)
    source = Path(folder) / "source"
    with source.open("wb") as file:
        for _ in range(int(size) // len(PIECE)):
            file.write(rng.randbytes(len(PIECE)))
    payload = store.import_file(source)
    listener = socket.create_server(("127.0.0.1", 0))
    contexts = Contexts(identity)
    threading.Thread(target=serve_tls, args=(listener, contexts), daemon=True).start()
    async with network.running([LOCAL], []), trio.open_nursery() as nursery:
        nursery.start_soon(cast.run)
        port = listener.getsockname()[1]
        figures = (payload.root.hex(), payload.size_bytes, payload.leaf_bytes)
        print(network.listen_addresses()[0], port, *figures, flush=True)
        trio.lowlevel.add_instrument(watch)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
