"""`Libp2pNetwork`: the `Network` of a daemon over py-libp2p (TCP, Noise, Yamux).

The one module of this package that other rooms start; importing it loads libp2p (0.9 CPU-seconds),
so the CLI does not. Register handlers before entering `running`: identify tells them to each peer
once, and only peers that list the membership protocol enter the DHT.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import trio
from libp2p.custom_types import TProtocol
from libp2p.host.exceptions import HostException
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID

from primed.p2p import addresses, limits, peerid
from primed.p2p.access import Access
from primed.p2p.bulk import PROTOCOL as BULK_PROTOCOL
from primed.p2p.bulk import BulkLane
from primed.p2p.connections import Connected, Connections
from primed.p2p.errors import LocalError, RemoteError
from primed.p2p.handlers import Handlers
from primed.p2p.identity import Identity
from primed.p2p.listeners import Listeners
from primed.p2p.logvalve import LogValve
from primed.p2p.mdns import Mdns
from primed.p2p.memory import Memory
from primed.p2p.network import (
    Deliver,
    Handler,
    PeerInfo,
    PeerListener,
    Traffic,
    Validator,
)
from primed.p2p.overlay import Overlay, Redial
from primed.p2p.peerbook import FROM_MDNS, TOLD, PeerBook
from primed.p2p.penalties import Consequence, Scores
from primed.p2p.reach import PROTOCOL as REACH_PROTOCOL
from primed.p2p.reachability import Reachability
from primed.p2p.relay.circuit import CircuitConnection
from primed.p2p.spoken import why_refused
from primed.p2p.stack import Stack
from primed.p2p.streams import STREAM_ERRORS, Libp2pStream, root_cause
from primed.p2p.topics import Topics
from primed.p2p.uploads import Uploads
from primed.p2p.waits import OpenWaits

_log = logging.getLogger(__name__)
MEMBER_PROTOCOL = "/primed/hello/1"


class Libp2pNetwork:
    """See `primed.p2p.network.Network` for what the methods promise.

    `book_path`: SQLite file of known peers and their scores (None: not kept). `announce`: addresses
    to tell others instead of the listening ones. `member_protocol`: what a peer must speak to enter
    the DHT's routing table. `offers_relay`: be a relay for peers that cannot be dialled. `mdns`: tell
    the local network where we are, and dial who does so too. `upnp`: have the router let others in.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        profile: limits.Profile = limits.HOME,
        book_path: Path | None = None,
        announce: Sequence[str] = (),
        member_protocol: str = MEMBER_PROTOCOL,
        uploads: Uploads | None = None,
        offers_relay: bool = False,
        mdns: bool = False,
        upnp: bool = False,
    ) -> None:
        self._identity = identity
        self._profile = profile
        self.offers_relay = offers_relay
        self._announce = announce
        self._member_protocol = member_protocol
        self._traffic = Traffic()
        self._waits = OpenWaits()
        self._scores = Scores()
        self._book = PeerBook(identity.peer, profile=profile)
        self._memory = Memory(book_path, self._book, self._scores)
        self._complaints = LogValve(_log, limits.PENALTIES_LOGGED_PER_MIN)
        self._connections = Connections(self._on_peer_change, profile)
        self._overlay = Overlay(
            self._book,
            profile.target_peers,
            waits=self._waits,
            dial=self._dial,
            connected=self._connections.peers,
            excluded=self.is_unwelcome,
            dialled=self._connections.dialled,
            chosen=self._connections.chosen,
            make_room=self._make_room,
        )
        self._handlers = Handlers(self._traffic, self.penalise)
        self._topics = Topics(self._traffic)
        self._uploads = uploads or Uploads()
        self._bulk = BulkLane(identity, profile, self, self._uploads, self._traffic, self._waits)
        self._handlers.set(BULK_PROTOCOL, self._bulk.answer)
        self._access = Access(
            self._connections,
            self._book,
            self.open_stream,
            waits=self._waits,
            upnp=upnp,
            announces=bool(announce),
        )
        self._mdns = Mdns(identity.peer, self._access.listening, self._hear) if mdns else None
        self._handlers.set(REACH_PROTOCOL, self._access.answer)
        self._listeners = Listeners()
        self._stack: Stack | None = None
        self._nursery: trio.Nursery | None = None

    # --- what is known

    @property
    def peer(self) -> bytes:
        return self._identity.peer

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
    def bulk(self) -> BulkLane:
        return self._bulk

    def listen_addresses(self) -> tuple[str, ...]:
        return tuple(str(address) for address in self._running().host.get_addrs())

    def peers(self) -> list[PeerInfo]:
        return [self._info(peer, entry) for peer, entry in self._connections.entries()]

    def _info(self, peer: bytes, entry: Connected) -> PeerInfo:
        subscribed, now = self._running().gossip.peer_topics, trio.current_time()
        lane, lane_reason = self._bulk.describe(peer)
        return PeerInfo(
            peer=peer,
            addresses=tuple(self._book.addresses_of(peer)),
            direction=entry.direction,
            connected_s=now - entry.since_s,
            score=self._scores.score(peer, now),
            topics=tuple(sorted(t for t, ids in subscribed.items() if ID(peer) in ids)),
            lane=lane,
            lane_reason=lane_reason,
            relayed=self._running().swarm.ip_of(peer) is None,
        )

    def state(self) -> tuple[str, str]:
        if self._stack is None:
            return "connecting", "the network is not started"
        return self._overlay.describe()

    @property
    def is_running(self) -> bool:
        """Whether there is a host now. It may be gone for a moment and come again (`running` anew):
        peers cannot be reached then, and what is published reaches nobody."""
        return self._stack is not None

    def redials(self) -> list[Redial]:
        """Whom we try to reach again, when, and why it did not work last time."""
        return self._overlay.redials()

    def remember(self, peer: bytes, known_at: Iterable[str], record: bytes = b"") -> None:
        """Learn addresses of a peer (from a NodeRecord, say); the overlay may dial them."""
        self._book.learn(peer, known_at, TOLD, time.time())
        if record:
            self._book.keep_record(peer, record, time.time())
        self._overlay.poke()

    def records(self) -> Mapping[bytes, bytes]:
        return self._book.records()

    def _hear(self, peer: bytes, transports: Iterable[str]) -> None:
        """Somebody on the local network says that a peer is there."""
        self._book.learn(peer, transports, FROM_MDNS, time.time())
        self._overlay.poke()

    def on_peer(self, listener: PeerListener) -> None:
        self._listeners.add(listener)

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
        await self._memory.load()
        stack = self._build()
        failure: Exception | None = None
        try:
            async with trio.open_nursery() as nursery:
                try:
                    with trio.CancelScope(shield=True):  # it could not be told to stop in between
                        await nursery.start(stack.run, listen, self._serve)
                    await trio.lowlevel.checkpoint_if_cancelled()
                    yield
                except Exception as error:  # noqa: BLE001  raised again, outside of the nursery
                    failure = error
                finally:
                    stack.stop()
        finally:  # also after a crash: it can run again
            await self._clear()
        if failure is not None:
            raise failure

    async def _clear(self) -> None:
        gone = tuple(self._connections.peers())
        self._stack = None
        self._access.attach(None)
        self._connections.clear()
        for peer in gone:
            self._on_peer_change(peer, False, "")
        await self._memory.close()

    def _build(self) -> Stack:
        self._stack = stack = Stack(
            self._identity,
            self._profile,
            self._announce,
            self._member_protocol,
            book=self._book,
            owner=self,
            topics=self._topics,
            traffic=self._traffic,
            uploads=self._uploads,
            waits=self._waits,
        )
        self._access.attach(stack)
        stack.swarm.register_notifee(self._connections)
        self._handlers.offer_all(stack.host)
        return stack

    async def _serve(self) -> None:
        """All our own tasks, for as long as the services run."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._overlay.run)
                nursery.start_soon(self._memory.run)
                nursery.start_soon(self._access.run)
                nursery.start_soon(self._bulk.run)
                if self._mdns is not None:
                    nursery.start_soon(self._mdns.run)
                nursery.start_soon(self._running().gossip.follow_topics)
                nursery.start_soon(self._refresh_for_ever)
        finally:
            self._nursery = None

    async def _refresh_for_ever(self) -> None:
        """Look around after each change, then ever more rarely: a look costs all peers CPU."""
        pause_s = limits.REFRESH_FIRST_S
        while True:
            changed = await self._connections.wait_for_change(pause_s)
            pause_s = limits.REFRESH_FIRST_S if changed else min(limits.REFRESH_S, pause_s * 2)
            await trio.sleep(1.0)  # let identify finish
            if self._connections.peers():
                await self._running().discovery.refresh()
                self._overlay.poke()

    def _running(self) -> Stack:
        if self._stack is None:
            raise LocalError("the network is not running")
        return self._stack

    def _reachable(self, peer: bytes) -> Stack:
        if self._stack is None:
            raise RemoteError("our own network is not up", peer=peer)
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
        swarm = self._reachable(peer).swarm
        try:
            await swarm.dial_peer(ID(peer))
        except (SwarmException, *STREAM_ERRORS) as error:
            raise RemoteError(f"cannot connect to {peerid.short(peer)}: {error}") from error
        if address := swarm.dialled_address(peer):
            self._book.worked(peer, address, time.time())

    async def _make_room(self) -> None:
        """If all connections that we may have are taken, a crowd of one network gives one up."""
        is_full = len(self._running().swarm.get_connections()) >= self._profile.connections
        if is_full and (peer := self._connections.of_the_crowd()) is not None:
            await self._hang_up(peer)

    async def _hang_up(self, peer: bytes) -> None:
        await self._running().swarm.close_peer(ID(peer))

    def _on_peer_change(self, peer: bytes, is_connected: bool, direction: str) -> None:
        if is_connected and direction == "out":
            self._book.connected(peer)
        elif not is_connected:
            self._book.lost(peer, trio.current_time())
            if self._stack is not None:
                self._stack.on_gone(peer)
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
        self._book.learn(peer, discovery.addresses_of(peer), TOLD, time.time())
        if discovery.is_member(peer):
            if self._connections.is_outbound(peer):  # who dialled us may not be there for us
                self._book.succeeded(peer, time.time())
            self._start(discovery.add, peer)

    def known_addresses(self, peer: bytes) -> Sequence[str]:
        """For the services: where to dial a peer; the book's before what only the DHT says."""
        learnt = map(addresses.dialable, self._running().discovery.addresses_of(peer))
        return list(dict.fromkeys([*self._book.addresses_of(peer), *filter(None, learnt)]))

    # --- for the bulk lane

    def dialled_address(self, peer: bytes) -> str | None:
        return self._running().swarm.dialled_address(peer)

    def is_dialled_by(self, peer: bytes) -> bool:
        return self._running().swarm.is_dialled_by(peer)

    def speaks(self, peer: bytes, protocol: str) -> bool:
        return not why_refused(protocol, self._running().host.protocols_of(peer))

    def on_bulk_socket(self, sock: socket.socket, ip: str) -> None:
        self._bulk.welcome(sock, ip)

    # --- reachability

    @property
    def reachability(self) -> Reachability:
        """Whether others can dial us, with evidence."""
        return self._access.describe()

    async def measure_reachability(self) -> Reachability:
        await self._access.look()
        return self._access.describe()

    @property
    def port_mapping(self) -> str:
        """What came of asking the router to let others in."""
        return self._access.describe_mapping()

    def mapped_addresses(self) -> list[str]:
        return self._access.mapped_addresses()

    @property
    def local_discovery(self) -> str:
        """How it stands with mDNS."""
        return self._mdns.describe() if self._mdns is not None else "off"

    def on_secured(self, peer: bytes) -> None:
        """For the services: a new inbound connection has proven to be this peer's."""
        self._access.reach.on_secured(peer)

    async def call(self, relay: bytes, peer: bytes) -> CircuitConnection:
        """For the services: a circuit to a peer by way of a relay. Raises SwarmException."""
        return await self._access.call(relay, peer)

    def relay_candidates(self) -> list[bytes]:
        return self._access.relay_candidates()

    def relay_address(self, peer: bytes) -> str | None:
        return self._access.relay_address(peer)

    # --- penalties

    def penalise(self, peer: bytes, points: int, reason: str) -> None:
        consequence = self._scores.penalise(peer, points, trio.current_time())
        level = logging.INFO if consequence is Consequence.NONE else logging.WARNING
        self._complaints.log(
            level,
            "%s loses %d points: %s (%s)",
            peerid.short(peer),
            points,
            reason,
            consequence.value,
        )
        if consequence is Consequence.NONE:
            return
        self._memory.save_soon()
        self._start(self._hang_up, peer)

    def is_banned(self, peer: bytes) -> bool:
        return self._scores.is_banned(peer, trio.current_time())

    def is_chosen(self, peer: bytes) -> bool:
        """For the services: one of the few peers that we lean on."""
        return peer in self._connections.chosen()

    def network_of(self, peer: bytes) -> str:
        return self._connections.network_of(peer)

    def is_unwelcome(self, peer: bytes) -> bool:
        """Whether we would not dial a peer: banned, or its score is low."""
        low = self._scores.score(peer, trio.current_time()) <= limits.SCORE_DISCONNECT
        return low or self.is_banned(peer)

    # --- streams

    async def open_stream(self, peer: bytes, protocol: str) -> Libp2pStream:
        host = self._reachable(peer).host
        try:
            with trio.fail_after(limits.OPEN_STREAM_S):
                stream = await host.new_stream(ID(peer), [TProtocol(protocol)])
        except trio.TooSlowError as error:
            raise RemoteError(f"no {protocol} stream in time", peer=peer) from error
        except (HostException, *STREAM_ERRORS) as error:
            why = why_refused(protocol, host.protocols_of(peer)) or root_cause(error)
            raise RemoteError(f"no {protocol} stream: {why}", peer=peer) from error
        return Libp2pStream(stream, peer, self._traffic)

    def handle(self, protocol: str, handler: Handler) -> None:
        self._handlers.set(protocol, handler)
        if self._stack is not None:
            self._handlers.offer(self._stack.host, protocol)

    # --- gossip

    def subscribe(self, topic: str, validate: Validator, deliver: Deliver) -> None:
        self._topics.set(topic, validate, deliver)

    def unsubscribe(self, topic: str) -> None:
        self._topics.remove(topic)

    async def publish(self, topic: str, data: bytes) -> None:
        if len(data) > limits.GOSSIP_MESSAGE_BYTES:
            raise LocalError(f"{len(data)} bytes are too much for gossip")
        if self._stack is not None:
            await self._stack.gossip.send(topic, data)

    # --- DHT

    async def meet_nearest(self) -> None:
        if self._stack is not None:
            await self._stack.discovery.meet_nearest()

    async def provide(self, key: bytes) -> None:
        if self._stack is not None:
            await self._stack.discovery.provide(key)

    async def find_providers(self, key: bytes, count: int) -> list[tuple[bytes, tuple[str, ...]]]:
        return await self._stack.discovery.find(key, count) if self._stack is not None else []

    def _start(self, function: Callable[[bytes], Awaitable[None]], peer: bytes) -> None:
        """Run in the background, if we run at all."""
        if self._nursery is not None and not self._nursery.cancel_scope.cancel_called:
            self._nursery.start_soon(function, peer)
