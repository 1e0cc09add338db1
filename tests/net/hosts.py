"""Real libp2p hosts on 127.0.0.1, several in one process."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import trio
from libp2p.peer.id import ID

from primed.p2p import limits
from primed.p2p.host import MEMBER_PROTOCOL, Libp2pNetwork
from primed.p2p.identity import Identity
from primed.p2p.network import Acceptance, Stream

LOCAL = "/ip4/127.0.0.1/tcp/0"
PROFILE = limits.HOME.on_one_machine()
ECHO = MEMBER_PROTOCOL  # every network of these tests serves it


class Inbox:
    """Collects what a topic delivers; `verdict` is what its validator says."""

    def __init__(self, network: Libp2pNetwork, topic: str = "t") -> None:
        self.got: list[bytes] = []
        self.verdict = Acceptance.ACCEPT
        network.subscribe(topic, self._judge, lambda _, data: self.got.append(data))

    def _judge(self, sender: bytes, data: bytes) -> Acceptance:
        return self.verdict


async def echo(stream: Stream) -> None:
    while data := await stream.read_some(limits.READ_BYTES):
        await stream.write_all(data)


async def until(condition: Callable[[], bool], at_most_s: float = 15.0) -> None:
    with trio.fail_after(at_most_s):
        while not condition():
            await trio.sleep(0.02)


def new_network(
    *,
    identity: Identity | None = None,
    profile: limits.Profile = PROFILE,
    book_path: Path | None = None,
    offers_relay: bool = False,
) -> Libp2pNetwork:
    """A network that is not running yet."""
    network = Libp2pNetwork(
        identity or Identity.generate(),
        profile=profile,
        book_path=book_path,
        offers_relay=offers_relay,
    )
    network.handle(ECHO, echo)
    return network


@asynccontextmanager
async def started(*networks: Libp2pNetwork) -> AsyncIterator[None]:
    """All running and joined by the first one."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(networks[0].running([LOCAL], []))
        for network in networks[1:]:
            join = list(networks[0].listen_addresses())
            await stack.enter_async_context(network.running([LOCAL], join))
        await until(lambda: len(networks[0].peers()) >= len(networks) - 1)
        yield


def subscribers(network: Libp2pNetwork, topic: str = "t") -> int:
    """How many peers a network knows to follow a topic and can send to already."""
    ready = network._running().gossip.peers
    return sum(topic in info.topics and ID(info.peer) in ready for info in network.peers())


async def ask(network: Libp2pNetwork, peer: bytes, message: bytes) -> bytes:
    """Send to the echo of a peer and read the answer."""
    stream = await network.open_stream(peer, ECHO)
    answer = b""
    with trio.fail_after(10):
        await stream.write_all(message)
        while len(answer) < len(message):
            answer += await stream.read_some(limits.READ_BYTES)
    await stream.close()
    return answer


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
