"""Peers that come and go, for the soak of `benchmarks.p2p`: several real hosts in this process.

argv: seed, bootstrap addresses. Each host is a new peer: it joins, greets and is greeted as a
daemon would, follows a topic, and leaves in order after a while for another one to come. How the
process itself ends (killed, or frozen before) is up to who started it.
"""

from __future__ import annotations

import random
import signal
import sys
import time

import trio

from primed.p2p import limits
from primed.p2p.host import Libp2pNetwork
from primed.p2p.identity import Identity
from primed.p2p.network import Acceptance
from primed.protocols import versions
from primed.protocols.hello import Hello, NodeRecord

HOSTS = 4
STAYS_S = (3.0, 20.0)
LOCAL = "/ip4/127.0.0.1/tcp/0"


async def visit(stays_s: float, bootstrap: list[str]) -> None:
    """One peer's life."""
    identity = Identity.generate()
    network = Libp2pNetwork(identity, profile=limits.HOME.on_one_machine())

    def record() -> NodeRecord:
        now = time.time_ns() // 1_000_000
        return NodeRecord(
            peer=identity.peer,
            roles=(),
            protocols=versions.SPOKEN,
            addresses=network.listen_addresses(),
            runs=(),
            profile="",
            sequence=now,
            expires_unix_ms=now + 60_000,
        )

    hello = Hello(network, record, identity.sign, dict, lambda: time.time_ns() // 1_000_000)
    network.subscribe("churn", lambda *_: Acceptance.ACCEPT, lambda *_: None)
    async with network.running([LOCAL], bootstrap), trio.open_nursery() as nursery:
        nursery.start_soon(hello.run)
        await trio.sleep(stays_s)
        nursery.cancel_scope.cancel()


async def main(seed: int, bootstrap: list[str]) -> None:
    rng = random.Random(seed)

    async def come_and_go() -> None:
        while True:
            await visit(rng.uniform(*STAYS_S), bootstrap)

    with trio.open_signal_receiver(signal.SIGTERM) as asked:
        async with trio.open_nursery() as nursery:
            for _ in range(HOSTS):
                nursery.start_soon(come_and_go)
            async for _ in asked:
                nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), sys.argv[2:])
