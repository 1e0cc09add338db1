"""A peer that means harm, over real libp2p: raw bytes on every protocol and gossip topic.

It runs in the test's process. One identity a protocol, since a daemon bans it after a few messages.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress

import trio
from msgspec import Raw

from primed.node.demo.swarm import LISTEN
from primed.p2p import limits
from primed.p2p.errors import RemoteError
from primed.p2p.host import Libp2pNetwork
from primed.p2p.identity import Identity
from primed.p2p.network import Acceptance, Stream
from primed.protocols import events, hello, rollouts, shardcast, verdicts
from primed.protocols.client import Client
from primed.protocols.framing import encode
from primed.protocols.hello.messages import ListRuns, RunList, responses
from primed.protocols.rpc import RequestHead

OURS = tuple(module.PROTOCOL for module in (hello, events, shardcast, rollouts, verdicts))
LIBRARY = (
    *("/meshsub/1.2.0", "/meshsub/1.1.0", "/ipfs/kad/1.0.0"),
    *("/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0", "/ipfs/ping/1.0.0"),
)
ANSWER_S = 15.0
TRIES = 8


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def attacks(rng: random.Random) -> list[bytes]:
    """Oversized, deeply nested, truncated, of unknown kind, with an attachment nobody wants, and
    plain noise."""
    nested = encode(RequestHead(1, 0, Raw(b"\x91" * 30_000 + b"\xc0")))
    unknown = encode(RequestHead(1, 0, Raw(b"\x91\xa7unknown")))
    attached = encode(RequestHead(1, 1 << 28, Raw(b"\x91\xa9list_runs")))
    return [
        (1 << 31).to_bytes(4, "big") + b"x" * 1000,
        framed(nested),
        framed(unknown)[:-3],
        framed(unknown),
        framed(attached),
        framed(b"\x91" * 60_000),
        b"\x00\x00\x00\x00",
        framed(rng.randbytes(100)),
    ]


def rpcs(rng: random.Random) -> list[bytes]:
    """The same for the library's protocols, whose lengths are varints."""
    return [
        b"\x80\x80\x80\x80\x08" + b"x" * 1000,  # 2^31
        b"\xff" * 20,
        b"\x64" + b"\x12\xff" * 10,  # 100 bytes announced, 20 given
        b"\x14" + rng.randbytes(20),
        rng.randbytes(2000),
    ]


class Hostile:
    """One identity. `sent` counts the messages that a daemon still listened to."""

    def __init__(self) -> None:
        self.network = Libp2pNetwork(
            Identity.generate(), profile=limits.HOME.on_one_machine(), member_protocol=""
        )
        self.sent = 0

    async def attack(self, address: str, protocol: str, messages: Sequence[bytes]) -> None:
        """Send each on a stream of its own, until the daemon does not let us in any more."""
        for message in messages:
            if not await self._came_through(address, protocol, message):
                return
            self.sent += 1

    async def attack_until_banned(
        self, address: str, protocol: str, messages: Sequence[bytes]
    ) -> None:
        """Messages that meet a hang-up are lost, so all are sent again until nobody answers."""
        for _ in range(TRIES):
            await self.attack(address, protocol, messages)
            if not await self.is_answered(address):
                return
        raise AssertionError(f"{address} still answers after {self.sent} hostile messages")

    async def is_answered(self, address: str) -> bool:
        """Whether the daemon answers a request that is in order."""
        client = Client(self.network, hello.PROTOCOL, responses)
        try:
            peer = await self.network.connect(address)
            return isinstance(await client.request(peer, ListRuns()), RunList)
        except RemoteError:
            return False

    async def _came_through(self, address: str, protocol: str, message: bytes) -> bool:
        for _ in range(TRIES):
            try:
                stream = await self.network.open_stream(
                    await self.network.connect(address), protocol
                )
            except RemoteError:  # it has just hung up on us, or banned us
                await trio.sleep(0.1)
                continue
            await _send(stream, message)
            return True
        return False


async def _send(stream: Stream, message: bytes) -> None:
    """Write, end our side, and wait until the daemon ends its side."""
    with trio.move_on_after(ANSWER_S), suppress(RemoteError):
        await stream.write_all(message)
        await stream.close()
        while await stream.read_some(1 << 16):
            pass
    await stream.reset()


async def on_protocol(addresses: Sequence[str], protocol: str) -> Hostile:
    """Attack all daemons on one protocol, on one of ours until all have banned us."""
    hostile, rng = Hostile(), random.Random(protocol)
    attack, messages = (
        (hostile.attack_until_banned, attacks(rng))
        if protocol in OURS
        else (hostile.attack, rpcs(rng))
    )
    async with hostile.network.running([LISTEN], []):
        assert await hostile.is_answered(addresses[0])
        async with trio.open_nursery() as nursery:
            for address in addresses:
                nursery.start_soon(attack, address, protocol, messages)
    return hostile


async def on_topic(
    addresses: Sequence[str], topic: str, is_charged: Callable[[bytes], bool]
) -> Hostile:
    """Gossip noise to all daemons, rightly signed by a peer that follows the topic. The first two
    messages leave it connected: `is_charged` must then come true."""
    hostile, charged = Hostile(), attacks(random.Random(topic))
    network = hostile.network
    network.subscribe(topic, lambda sender, data: Acceptance.IGNORE, lambda sender, data: None)
    async with network.running([LISTEN], []):
        peers = [await network.connect(address) for address in addresses]
        with trio.fail_after(ANSWER_S):
            while sum(topic in info.topics for info in network.peers()) < len(peers):
                await trio.sleep(0.05)
            for message in charged[:2]:
                await network.publish(topic, message)
            while not await trio.to_thread.run_sync(is_charged, network.peer):
                await trio.sleep(0.1)
        for message in charged[2:]:
            await network.publish(topic, message)
        await trio.sleep(0.5)
    return hostile
