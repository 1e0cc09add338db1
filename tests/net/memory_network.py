"""An in-memory `Network`: real implementation of the interface over trio memory streams.

`Fabric` joins any number of nodes in one trio run. Gossip floods along connections with each node's
validator in between, as gossipsub does; `drop` loses messages on purpose. Handler errors are
counted like the real host's and fail a test that does not expect them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from trio.testing import memory_stream_pair

from primed.p2p.errors import LocalError, RemoteError
from primed.p2p.listeners import Listeners
from primed.p2p.network import (
    Acceptance,
    Deliver,
    Handler,
    PeerId,
    PeerInfo,
    PeerListener,
    Stream,
    Traffic,
    Validator,
)
from primed.p2p.overlay import Redial
from primed.p2p.reachability import Kind, Reachability
from primed.p2p.uploads import Uploads
from primed.p2p.waits import OpenWaits
from primed.verify.signing import Signer, peer_id_of


class Key:
    """An identity: peer id and signer."""

    def __init__(self, seed: int) -> None:
        key = Ed25519PrivateKey.from_private_bytes(seed.to_bytes(32, "big"))
        self.peer: PeerId = peer_id_of(key.public_key().public_bytes_raw())
        self.sign: Signer = key.sign


class MemoryStream:
    def __init__(self, stream: trio.abc.Stream, peer: PeerId) -> None:
        self._stream = stream
        self._peer = peer

    @property
    def peer(self) -> PeerId:
        return self._peer

    async def read_some(self, max_bytes: int) -> bytes:
        try:
            return bytes(await self._stream.receive_some(max_bytes))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise RemoteError("stream was reset", peer=self._peer) from error

    async def write_all(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise RemoteError("stream was reset", peer=self._peer) from error

    async def close(self) -> None:
        await trio.aclose_forcefully(self._stream)

    async def reset(self) -> None:
        await trio.aclose_forcefully(self._stream)


class Fabric:
    """The nodes of one test and the links between them."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.nodes: dict[PeerId, MemoryNetwork] = {}
        self.providers: dict[bytes, dict[PeerId, tuple[str, ...]]] = {}
        self.drop: Callable[[PeerId, PeerId, bytes], bool] = lambda sender, receiver, data: False

    def node(self, seed: int) -> MemoryNetwork:
        node = MemoryNetwork(self, Key(seed))
        self.nodes[node.peer] = node
        return node

    def link(self, a: MemoryNetwork, b: MemoryNetwork) -> None:
        for one, other in ((a, b), (b, a)):
            one.linked.add(other.peer)
        for one, other in ((a, b), (b, a)):
            for listener in one.listeners:
                listener(other.peer, True)

    def unlink(self, a: MemoryNetwork, b: MemoryNetwork) -> None:
        for one, other in ((a, b), (b, a)):
            one.linked.discard(other.peer)
            for listener in one.listeners:
                listener(other.peer, False)

    def link_all(self) -> None:
        nodes = list(self.nodes.values())
        for index, one in enumerate(nodes):
            for other in nodes[index + 1 :]:
                self.link(one, other)


class MemoryNetwork:
    def __init__(self, fabric: Fabric, key: Key) -> None:
        self.key = key
        self.linked: set[PeerId] = set()
        self.remembered: set[PeerId] = set()
        self.near: list[MemoryNetwork] = []
        self.listeners = Listeners()
        self.handlers: dict[str, Handler] = {}
        self.topics: dict[str, tuple[Validator, Deliver]] = {}
        self.kept_records: dict[PeerId, bytes] = {}
        self.penalties: list[tuple[PeerId, int, str]] = []
        self.handler_errors: list[Exception] = []
        self.streams_opened = 0
        self._fabric = fabric
        self._traffic = Traffic()
        self._waits = OpenWaits()
        self._uploads = Uploads()
        self._seen: set[bytes] = set()

    @property
    def peer(self) -> PeerId:
        return self.key.peer

    @property
    def traffic(self) -> Traffic:
        return self._traffic

    @property
    def uploads(self) -> Uploads:
        return self._uploads

    @property
    def waits(self) -> OpenWaits:
        return self._waits

    @property
    def bulk(self) -> None:
        return None

    @property
    def reachability(self) -> Reachability:
        return Reachability(Kind.LOCAL, "it is in memory")

    @property
    def port_mapping(self) -> str:
        return "off"

    @property
    def local_discovery(self) -> str:
        return "off"

    def listen_addresses(self) -> tuple[str, ...]:
        return ()

    @asynccontextmanager
    async def running(self, listen: Sequence[str], bootstrap: Sequence[str]) -> AsyncIterator[None]:
        yield

    def peers(self) -> list[PeerInfo]:
        return [PeerInfo(peer, (), "out", 0.0, 0.0) for peer in sorted(self.linked)]

    def state(self) -> tuple[str, str]:
        return ("online", "") if self.linked else ("alone", "no peer is connected")

    @property
    def is_running(self) -> bool:
        return True

    def redials(self) -> list[Redial]:
        return []

    async def connect(self, address: str) -> PeerId:
        raise RemoteError("memory networks are linked by their fabric")

    async def open_stream(self, peer: PeerId, protocol: str) -> Stream:
        await trio.lowlevel.checkpoint()
        other = self._fabric.nodes.get(peer)
        if other is not None and peer in self.remembered - self.linked:
            self._fabric.link(self, other)
        if peer not in self.linked or other is None or protocol not in other.handlers:
            raise RemoteError("cannot be reached", peer=peer)
        self.streams_opened += 1
        ours, theirs = memory_stream_pair()
        stream = MemoryStream(theirs, self.peer)
        self._fabric.nursery.start_soon(other.run_handler, other.handlers[protocol], stream)
        return MemoryStream(ours, peer)

    async def run_handler(self, handler: Handler, stream: Stream) -> None:
        try:
            await handler(stream)
        except Exception as error:  # noqa: BLE001 - the border that the real host has, too
            self.handler_errors.append(error)
            await stream.reset()

    def handle(self, protocol: str, handler: Handler) -> None:
        self.handlers[protocol] = handler

    def subscribe(self, topic: str, validate: Validator, deliver: Deliver) -> None:
        self.topics[topic] = (validate, deliver)

    def unsubscribe(self, topic: str) -> None:
        self.topics.pop(topic, None)

    async def publish(self, topic: str, data: bytes) -> None:
        if len(data) > 1 << 20:
            raise LocalError("message above 1 MiB")
        await trio.lowlevel.checkpoint()
        self._seen.add(data)
        self._flood(topic, data)

    def _flood(self, topic: str, data: bytes) -> None:
        for peer in sorted(self.linked):
            if not self._fabric.drop(self.peer, peer, data):
                self._fabric.nodes[peer].receive(self.peer, topic, data)

    def receive(self, sender: PeerId, topic: str, data: bytes) -> None:
        """A gossip message from a linked node, judged, delivered and passed on."""
        if topic not in self.topics or data in self._seen:
            return
        validate, deliver = self.topics[topic]
        acceptance = validate(sender, data)
        if acceptance is Acceptance.REJECT:
            self.penalise(sender, 5, "gossip rejected")
        if acceptance is Acceptance.ACCEPT:
            self._seen.add(data)
            deliver(sender, data)
            self._flood(topic, data)

    async def meet_nearest(self) -> None:
        """There are no routing tables here: `near` says who they are."""
        await trio.lowlevel.checkpoint()
        for other in self.near:
            self._fabric.link(self, other)

    async def provide(self, key: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self._fabric.providers.setdefault(key, {})[self.peer] = ()

    async def find_providers(self, key: bytes, count: int) -> list[tuple[PeerId, tuple[str, ...]]]:
        await trio.lowlevel.checkpoint()
        return list(self._fabric.providers.get(key, {}).items())[:count]

    def remember(self, peer: PeerId, known_at: Iterable[str], record: bytes = b"") -> None:
        """From now on it can be dialled: addresses play no part here."""
        self.remembered.add(peer)
        if record:
            self.kept_records[peer] = record

    def records(self) -> Mapping[PeerId, bytes]:
        return self.kept_records

    def on_peer(self, listener: PeerListener) -> None:
        self.listeners.add(listener)

    def penalise(self, peer: PeerId, points: int, reason: str) -> None:
        self.penalties.append((peer, points, reason))
