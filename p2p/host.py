"""`Libp2pNetwork`: the `Network` of a daemon over py-libp2p (TCP, Noise, Yamux).

The one module of this package that other rooms start; importing it loads libp2p (0.9 CPU-seconds),
so the CLI does not. Register handlers before entering `running`: identify tells them to each peer
once, and only peers that list the membership protocol enter the DHT.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.host.exceptions import HostException
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.stream_muxer.yamux.yamux import Yamux

from primed.p2p import addresses, limits, peerid
from primed.p2p.connections import Connections
from primed.p2p.errors import LocalError, RemoteError
from primed.p2p.identity import Identity
from primed.p2p.network import (
    Acceptance,
    Deliver,
    Handler,
    PeerInfo,
    PeerListener,
    Traffic,
    Validator,
)
from primed.p2p.overlay import Overlay
from primed.p2p.peerbook import PeerBook
from primed.p2p.penalties import Consequence, Scores
from primed.p2p.stack import Stack
from primed.p2p.streams import STREAM_ERRORS, Libp2pStream

_log = logging.getLogger(__name__)
MEMBER_PROTOCOL = "/primed/hello/1"


class _Topic(NamedTuple):
    validate: Validator
    deliver: Deliver


class Libp2pNetwork:
    """See `primed.p2p.network.Network` for what the methods promise.

    `cache_path`: JSON file of the last known good peers (None: not kept). `announce`: addresses to
    tell others instead of the listening ones. `member_protocol`: what a peer must speak to enter
    the DHT's routing table.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        profile: limits.Profile = limits.HOME,
        cache_path: Path | None = None,
        announce: Sequence[str] = (),
        member_protocol: str = MEMBER_PROTOCOL,
    ) -> None:
        self._identity = identity
        self._profile = profile
        self._announce = announce
        self._member_protocol = member_protocol
        self._traffic = Traffic()
        self._scores = Scores()
        self._book = PeerBook(identity.peer)
        self._connections = Connections(self._on_peer_change)
        self._overlay = Overlay(
            self._book,
            profile.target_peers,
            cache_path,
            dial=self._dial,
            connected=self._connections.peers,
            excluded=self._is_unwelcome,
        )
        self._handlers: dict[str, Handler] = {}
        self._topics: dict[str, _Topic] = {}
        self._topics_changed = trio.Event()
        self._listeners: list[PeerListener] = []
        self._stack: Stack | None = None
        self._nursery: trio.Nursery | None = None

    # --- what is known

    @property
    def peer(self) -> bytes:
        return self._identity.peer

    @property
    def traffic(self) -> Traffic:
        return self._traffic

    def listen_addresses(self) -> tuple[str, ...]:
        return tuple(str(address) for address in self._running().host.get_addrs())

    def peers(self) -> list[PeerInfo]:
        stack = self._running()
        subscribed = stack.gossip.peer_topics
        return [
            PeerInfo(
                peer=peer,
                addresses=tuple(self._book.addresses_of(peer)),
                direction=entry.direction,
                connected_s=trio.current_time() - entry.since_s,
                score=self._scores.score(peer, trio.current_time()),
                topics=tuple(sorted(t for t, ids in subscribed.items() if ID(peer) in ids)),
            )
            for peer, entry in self._connections.entries()
        ]

    def state(self) -> tuple[str, str]:
        if self._stack is None:
            return "connecting", "the network is not started"
        return self._overlay.describe()

    def remember(self, peer: bytes, known_at: Iterable[str]) -> None:
        """Learn addresses of a peer (from a NodeRecord, say); the overlay may dial them."""
        self._book.learn(peer, known_at)
        self._overlay.poke()

    def on_peer(self, listener: PeerListener) -> None:
        self._listeners.append(listener)

    # --- life

    def running(
        self, listen: Sequence[str], bootstrap: Sequence[str]
    ) -> AbstractAsyncContextManager[None]:
        return self._run(listen, bootstrap)

    @asynccontextmanager
    async def _run(self, listen: Sequence[str], bootstrap: Sequence[str]) -> AsyncIterator[None]:
        """Exceptions of the body come out as they are; those of our tasks in a group."""
        if self._stack is not None:
            raise LocalError("the network is running already")
        for address in bootstrap:
            transport, peer = addresses.with_peer(address)
            self._book.add_bootstrap(peer, transport)
        self._overlay.load()
        stack = self._build()
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            try:
                await nursery.start(stack.run, listen, self._serve)
                yield
            except Exception as error:  # noqa: BLE001  raised again below, outside of the nursery
                failure = error
            finally:
                stack.stop()
        self._stack = self._nursery = None
        self._connections.clear()
        if failure is not None:
            raise failure

    def _build(self) -> Stack:
        self._stack = stack = Stack(
            self._identity,
            self._profile,
            self._announce,
            self._member_protocol,
            book=self._book,
            owner=self,
            traffic=self._traffic,
        )
        stack.swarm.register_notifee(self._connections)
        for protocol in self._handlers:
            self._offer(protocol)
        return stack

    async def _serve(self) -> None:
        """All our own tasks, for as long as the services run."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._overlay.run)
            nursery.start_soon(self._follow_topics)
            nursery.start_soon(self._refresh_for_ever)

    async def _refresh_for_ever(self) -> None:
        """Look around, often while we know too few peers."""
        while True:
            await self._connections.wait_for_change(self._refresh_pause_s())
            await trio.sleep(1.0)  # let identify finish
            if self._connections.peers():
                await self._running().discovery.refresh()
                self._overlay.poke()
            await self._overlay.save()

    def _refresh_pause_s(self) -> float:
        enough = len(self._connections.peers()) >= self._profile.target_peers
        return limits.REFRESH_S if enough else limits.REFRESH_LONELY_S

    def _running(self) -> Stack:
        if self._stack is None:
            raise LocalError("the network is not running")
        return self._stack

    # --- connections

    async def connect(self, address: str) -> bytes:
        try:
            transport, peer = addresses.split(address)
        except ValueError as error:
            raise RemoteError(str(error)) from error
        if not peer:
            raise RemoteError(f"no /p2p/<peer id> in {address[:200]}")
        self._book.learn(peer, [transport])
        await self._dial(peer)
        return peer

    async def _dial(self, peer: bytes) -> None:
        try:
            await self._running().swarm.dial_peer(ID(peer))
        except (SwarmException, *STREAM_ERRORS) as error:
            raise RemoteError(f"cannot connect to {peerid.short(peer)}: {error}") from error

    async def _hang_up(self, peer: bytes) -> None:
        await self._running().swarm.close_peer(ID(peer))

    def _on_peer_change(self, peer: bytes, is_connected: bool, direction: str) -> None:
        if is_connected and direction == "out":
            self._book.connected(peer)
        elif not is_connected:
            self._book.lost(peer, trio.current_time())
            if self._stack is not None:
                self._stack.discovery.remove(peer)
        self._overlay.poke()
        for listener in self._listeners:
            try:
                listener(peer, is_connected)
            except Exception:  # noqa: BLE001  the border: one listener must not deprive the others
                self._traffic.handler_errors += 1
                _log.exception("a peer listener failed")

    def on_identified(self, peer: bytes) -> None:
        """For the services: a peer told its protocols and addresses."""
        discovery = self._running().discovery
        self._book.learn(peer, discovery.addresses_of(peer))
        if discovery.is_member(peer):
            self._book.succeeded(peer, time.time())
            self._start(discovery.add, peer)

    def known_addresses(self, peer: bytes) -> Sequence[str]:
        """For the services: where to dial a peer; the book's before what only the DHT says."""
        learnt = map(addresses.dialable, self._running().discovery.addresses_of(peer))
        return list(dict.fromkeys([*self._book.addresses_of(peer), *filter(None, learnt)]))

    # --- penalties

    def penalise(self, peer: bytes, points: int, reason: str) -> None:
        consequence = self._scores.penalise(peer, points, trio.current_time())
        _log.info("%s loses %d points: %s", peerid.short(peer), points, reason)
        if consequence is Consequence.NONE:
            return
        _log.warning("%s: %s (%s)", consequence.value, peerid.short(peer), reason)
        self._start(self._hang_up, peer)

    def is_banned(self, peer: bytes) -> bool:
        return self._scores.is_banned(peer, trio.current_time())

    def _is_unwelcome(self, peer: bytes) -> bool:
        """Whether we would not dial a peer by ourselves."""
        low = self._scores.score(peer, trio.current_time()) <= limits.SCORE_DISCONNECT
        return low or self.is_banned(peer)

    # --- streams

    async def open_stream(self, peer: bytes, protocol: str) -> Libp2pStream:
        host = self._running().host
        try:
            with trio.fail_after(limits.OPEN_STREAM_S):
                stream = await host.new_stream(ID(peer), [TProtocol(protocol)])
        except trio.TooSlowError as error:
            raise RemoteError(f"no {protocol} stream in time", peer=peer) from error
        except (HostException, *STREAM_ERRORS) as error:
            raise RemoteError(f"no {protocol} stream: {error}", peer=peer) from error
        return Libp2pStream(stream, peer, self._traffic)

    def handle(self, protocol: str, handler: Handler) -> None:
        self._handlers[protocol] = handler
        if self._stack is not None:
            self._offer(protocol)

    def _offer(self, protocol: str) -> None:
        async def serve(stream: INetStream) -> None:
            await self._serve_stream(protocol, stream)

        self._running().host.set_stream_handler(TProtocol(protocol), serve)

    async def _serve_stream(self, protocol: str, raw: INetStream) -> None:
        """Run a handler until it returns, fails, or the connection ends."""
        stream = Libp2pStream(raw, raw.muxed_conn.peer_id.to_bytes(), self._traffic)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_lost, raw, nursery.cancel_scope)
            try:
                await self._handlers[protocol](stream)
                await stream.close()
            except RemoteError as error:
                if error.penalty:
                    self.penalise(error.peer or stream.peer, error.penalty, error.reason)
                await stream.reset()
            except Exception:  # noqa: BLE001  the border: a stream's failure is not the node's
                self._traffic.handler_errors += 1
                _log.exception("the handler of %s failed", protocol)
                await stream.reset()
            nursery.cancel_scope.cancel()

    # --- gossip

    def subscribe(self, topic: str, validate: Validator, deliver: Deliver) -> None:
        self._topics[topic] = _Topic(validate, deliver)
        self._topics_changed.set()

    def unsubscribe(self, topic: str) -> None:
        self._topics.pop(topic, None)
        self._topics_changed.set()

    async def _follow_topics(self) -> None:
        """Bring the services' topics in line with ours, whenever ours change."""
        gossip = self._running().gossip
        while True:
            self._topics_changed = trio.Event()
            for topic in set(gossip.topic_ids) - set(self._topics):
                await gossip.unsubscribe(topic)
            for topic in set(self._topics) - set(gossip.topic_ids):
                await gossip.subscribe(topic)
            await self._topics_changed.wait()

    async def publish(self, topic: str, data: bytes) -> None:
        if len(data) > limits.GOSSIP_MESSAGE_BYTES:
            raise LocalError(f"{len(data)} bytes are too much for gossip")
        await self._running().gossip.send(topic, data)

    def judge(self, sender: bytes, topic: str, data: bytes) -> Acceptance:
        """For the services: our validator's word on a message."""
        known = self._topics.get(topic)
        if known is None:
            return Acceptance.IGNORE
        try:
            return known.validate(sender, data)
        except Exception:  # noqa: BLE001  the border: our bug, not the sender's fault
            self._traffic.handler_errors += 1
            _log.exception("the validator of %s failed", topic)
            return Acceptance.IGNORE

    def deliver(self, sender: bytes, topic: str, data: bytes) -> None:
        """For the services: hand over an accepted message."""
        if known := self._topics.get(topic):
            try:
                known.deliver(sender, data)
            except Exception:  # noqa: BLE001  the border: as above
                self._traffic.handler_errors += 1
                _log.exception("a delivery of %s failed", topic)

    # --- DHT

    async def provide(self, key: bytes) -> None:
        await self._running().discovery.provide(key)

    async def find_providers(self, key: bytes, count: int) -> list[tuple[bytes, tuple[str, ...]]]:
        return await self._running().discovery.find(key, count)

    def _start(self, function: Callable[[bytes], Awaitable[None]], peer: bytes) -> None:
        """Run in the background, if we run at all."""
        if self._nursery is not None:
            self._nursery.start_soon(function, peer)


async def _cancel_when_lost(stream: INetStream, scope: trio.CancelScope) -> None:
    if isinstance(stream.muxed_conn, Yamux):
        await stream.muxed_conn.event_shutting_down.wait()
        scope.cancel()
