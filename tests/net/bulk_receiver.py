"""A process that pulls one payload and may be killed: tests of resuming.

argv: folder, the source's multiaddr, root (hex), size, leaf size. Prints one line, "leaf", for each
leaf it has, then "complete <bytes pulled by bulk> <by streams>".
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import trio

from primed.p2p import limits
from primed.p2p.host import MEMBER_PROTOCOL, Libp2pNetwork
from primed.p2p.identity import Identity
from primed.p2p.network import Stream
from primed.protocols.by_run import RunServers
from primed.protocols.shardcast import PayloadStore, Shardcast
from primed.verify.statements import Payload

RUN = bytes(32)


async def ignore(stream: Stream) -> None:
    await stream.close()


async def main(folder: str, address: str, root: str, size: str, leaf: str) -> None:
    identity = Identity.generate()
    network = Libp2pNetwork(identity, profile=limits.HOME.on_one_machine())
    network.handle(MEMBER_PROTOCOL, ignore)
    store = PayloadStore(Path(folder))
    cast = Shardcast(
        RunServers(network), store, RUN, identity.peer, identity.sign, random.Random(1)
    )
    payload = Payload(bytes.fromhex(root), int(size), int(leaf))
    async with network.running(["/ip4/127.0.0.1/tcp/0"], [address]), trio.open_nursery() as nursery:
        nursery.start_soon(cast.run)
        cast.expect(payload, await network.connect(address))
        nursery.start_soon(report, cast, payload)
        await cast.wait(payload)
        print("complete", cast.lanes.bulk_bytes, cast.lanes.stream_bytes, flush=True)
        nursery.cancel_scope.cancel()


async def report(cast: Shardcast, payload: Payload) -> None:
    shown = 0
    while True:
        here = cast.progress(payload).leaves_here
        for _ in range(shown, here):
            print("leaf", flush=True)
        shown = here
        await trio.sleep(0.01)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
