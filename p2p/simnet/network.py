"""`SimNetwork`: the `Network` of one simulated node. See there for what the methods promise.

The same parts decide as in `p2p.host`: scores and bans, peer book, overlay, topics; only what
moves bytes is another. `memory` and `remembered` carry peer book and scores over to a next life, as
the file does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import trio

from primed.p2p import addresses, limits, peerid
from primed.p2p.bookfile import Rows
from primed.p2p.errors import LocalError, RemoteError
from primed.p2p.listeners import Listeners
from primed.p2p.network import Deliver, Handler, PeerInfo, PeerListener, Traffic, Validator
from primed.p2p.overlay import Overlay, Redial
from primed.p2p.peerbook import TOLD, PeerBook
from primed.p2p.penalties import Consequence, Scores
from primed.p2p.reachability import Kind, Reachability
from primed.p2p.simnet.connection import Connection
from primed.p2p.simnet.discovery import ASKED, Discovery, Found, nearest
from primed.p2p.simnet.gossip import Gossip
from primed.p2p.simnet.host import Host
from primed.p2p.simnet.stream import SimStream
from primed.p2p.simnet.world import Penalty, World
from primed.p2p.topics import Topics
from primed.p2p.uploads import Uploads
from primed.p2p.waits import OpenWaits

ACQUAINTANCES = 20  # told to a peer that looks around


class SimNetwork:
    """A node's process on a host of the world."""

    def __init__(
        self,
        world: World,
        host: Host,
        *,
        profile: limits.Profile = limits.HOME,
        remembered: Rows | None = None,
    ) -> None:
        self.world = world
        self.host = host
        self._listens = (f"{host.address}/p2p/{peerid.to_text(host.peer)}",)
        self.scores = Scores()
        self.handler_errors: list[Exception] = []
        self._profile = profile
        self._traffic = Traffic()
        self._waits = OpenWaits()
        self._uploads = Uploads(clock=trio.current_time)
        self._book = PeerBook(host.peer, profile=profile)
        if remembered is not None:
            now_s = trio.current_time()
            self._book.add_rows(remembered.peers, remembered.addresses)
            self.scores.add_rows(remembered.scores, now_s, self._unix_s())
        self._topics = Topics(self._traffic)
        self.gossip = Gossip(self, self._topics)
        self.discovery = Discovery(self, self._book)
        self._connections: dict[bytes, Connection] = {}
        self._overlay = Overlay(
            self._book,
            profile.target_peers,
            waits=self._waits,
            dial=self._dial,
            connected=self._connections.keys,
            excluded=self._is_unwelcome,
            dialled=self._dialled,
        )
        self._handlers: dict[str, Handler] = {}
        self._listeners = Listeners()
        self._nursery: trio.Nursery | None = None
        self._came_or_went = trio.Event()

    # ---- what is known

    @property
    def peer(self) -> bytes:
        return self.host.peer

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
        """Large payloads take streams: a lane beside them would need threads."""

    @property
    def reachability(self) -> Reachability:
        kind = Kind.PUBLIC if self.host.is_public else Kind.OUTBOUND
        return Reachability(kind, "so the world was made")

    @property
    def port_mapping(self) -> str:
        return "off"

    @property
    def local_discovery(self) -> str:
        return "off"

    def listen_addresses(self) -> tuple[str, ...]:
        return self._listens

    def connected(self) -> list[bytes]:
        return list(self._connections)

    def acquaintances(self) -> Found:
        """Whom this node would tell to a peer that looks around: those nearest to it."""
        closest = nearest(self._connections, self.peer, ACQUAINTANCES)
        return [(peer, tuple(self._book.addresses_of(peer))) for peer in closest]

    def peers(self) -> list[PeerInfo]:
        now = trio.current_time()
        return [
            PeerInfo(
                peer=peer,
                addresses=(self.world.hosts[peer].address,),
                direction="out" if connection.dialler == self.peer else "in",
                connected_s=now - connection.since_s,
                score=self.scores.score(peer, now),
                topics=self.gossip.topics_of(peer),
                relayed=connection.via is not None,
            )
            for peer, connection in self._connections.items()
        ]

    def state(self) -> tuple[str, str]:
        return self._overlay.describe()

    @property
    def is_running(self) -> bool:
        return self._nursery is not None

    def redials(self) -> list[Redial]:
        return self._overlay.redials()

    def remember(self, peer: bytes, known_at: Iterable[str], record: bytes = b"") -> None:
        self._book.learn(peer, known_at, TOLD, self._unix_s())
        if record:
            self._book.keep_record(peer, record, self._unix_s())
        self._overlay.poke()

    def records(self) -> Mapping[bytes, bytes]:
        return self._book.records()

    def on_peer(self, listener: PeerListener) -> None:
        self._listeners.add(listener)

    def memory(self) -> Rows:
        """What a restart begins with."""
        scores = self.scores.rows(trio.current_time(), self._unix_s())
        return Rows(*self._book.rows(), scores)

    def _unix_s(self) -> float:
        return self.world.unix_ms(self.peer) / 1000

    # ---- life

    def running(
        self, listen: Sequence[str], bootstrap: Sequence[str]
    ) -> AbstractAsyncContextManager[None]:
        return self._run(bootstrap)

    @asynccontextmanager
    async def _run(self, bootstrap: Sequence[str]) -> AsyncIterator[None]:
        if self.host.network is not None:
            raise LocalError("the host has a process already")
        for address in bootstrap:
            transport, peer = addresses.with_peer(address)
            self._book.add_bootstrap(peer, transport)
        self.host.network = self
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._overlay.run)
            nursery.start_soon(self._refresh_for_ever)
            try:
                yield
            except Exception as error:  # noqa: BLE001  raised again below, outside of the nursery
                failure = error
            finally:
                self.stop()
                nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    def stop(self) -> None:
        """At once, as when the process is killed: nothing is sent any more. `running` still has to
        be left."""
        self._nursery = None
        if self.host.network is self:
            self.host.network = None
        for connection in list(self._connections.values()):
            connection.close(self.peer, "stopped")
        self.world.drop_relayed_by(self.host)

    async def _refresh_for_ever(self) -> None:
        """As in `p2p.host`: look around after each change, then ever more rarely."""
        pause_s = limits.REFRESH_FIRST_S
        while True:
            with trio.move_on_after(pause_s) as patience:
                await self._came_or_went.wait()
            self._came_or_went = trio.Event()
            is_quiet = patience.cancelled_caught
            pause_s = min(limits.REFRESH_S, pause_s * 2) if is_quiet else limits.REFRESH_FIRST_S
            await trio.sleep(1.0)
            if self._connections:
                await self.discovery.refresh()
                self._overlay.poke()

    # ---- connections

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
        await trio.lowlevel.checkpoint()
        why = "no address is known"
        for address in self._book.addresses_of(peer)[: limits.ADDRESSES_TRIED]:
            if peer in self._connections:
                return
            why = await self._dial_at(address, peer)
            if not why:
                return
        self.world.trace.note(self.host.name, "cannot dial", peerid.short(peer), why)
        raise RemoteError(f"cannot connect to {peerid.short(peer)}: {why}")

    async def _dial_at(self, address: str, peer: bytes) -> str:
        """ "" when connected, else why not."""
        if self.is_banned(peer):
            return "it is banned"
        there = self.world.at_address(address)
        via = self._relay_to(there) if there is not None else None
        if there is None or self._is_cut_off(there) or not (there.is_public or via):
            await trio.sleep(limits.DIAL_S)
            return "no answer"
        latency_s = self.world.latency_s(self.host, there, via)
        await trio.sleep(2 * latency_s)  # TCP
        if there.network is None and not self._is_cut_off(there):
            return "connection refused"
        await trio.sleep(3 * latency_s)  # Noise and Yamux
        far = there.network
        if far is None or self._is_cut_off(there):
            await trio.sleep(limits.UPGRADE_S)
            return "no handshake in time"
        if peer in self._connections:
            return ""
        if there.peer != peer or self._nursery is None or not far.welcomes(self.peer):
            return "turned away"
        self._join(far, via)
        return ""

    def _is_cut_off(self, there: Host) -> bool:
        return self.world.blocked_since(self.host, there) is not None

    def _relay_to(self, there: Host) -> Host | None:
        """A relay that a host behind NAT is connected to, and we can reach."""
        if there.is_public or there.network is None:
            return None
        for peer in there.network.connected():
            relay = self.world.hosts[peer]
            if relay.is_relay and relay.peer != self.peer and not self._is_cut_off(relay):
                return relay
        return None

    def welcomes(self, peer: bytes) -> bool:
        is_full = len(self._connections) >= self._profile.connections
        return self._nursery is not None and not is_full and not self.is_banned(peer)

    def _join(self, far: SimNetwork, via: Host | None) -> None:
        connection = Connection(self.world, self, far, via)
        relayed = ("via", via.name) if via else ()
        self.world.trace.note(self.host.name, "connected", far.host.name, *relayed)
        for own, other in ((self, far), (far, self)):
            if (old := own._connections.get(other.peer)) is not None:
                old.abandon(own.peer)  # of an earlier life of the other
            own._connections[other.peer] = connection
        for own, other in ((self, far), (far, self)):
            own._greet(other, is_dialler=own is self)

    def _greet(self, other: SimNetwork, is_dialler: bool) -> None:
        """What identify tells, and who has to know of a new connection."""
        self._book.learn(other.peer, other.listen_addresses(), TOLD, self._unix_s())
        if is_dialler:  # who dialled us may not be there for us
            self._book.worked(other.peer, other.host.address, self._unix_s())
            self._book.succeeded(other.peer, self._unix_s())
        self.gossip.connected(other.peer)
        self._tell(other.peer, True)

    def lost(self, connection: Connection, reason: str) -> None:
        """Called by the connection when this end is over."""
        peer = connection.other(self.peer)
        if self._connections.get(peer) is not connection:
            return
        del self._connections[peer]
        self.world.trace.note(self.host.name, "lost", self.world.hosts[peer].name, reason)
        self._book.lost(peer, trio.current_time())
        self.gossip.lost(peer)
        self._tell(peer, False)

    def _tell(self, peer: bytes, is_connected: bool) -> None:
        self._came_or_went.set()
        self._overlay.poke()
        for listener in self._listeners:
            listener(peer, is_connected)

    def send(self, peer: bytes, size_bytes: int, action: Callable[[SimNetwork], None]) -> None:
        """Have something done at a connected peer when these bytes get there."""
        if (connection := self._connections.get(peer)) is not None:
            connection.send(self.peer, size_bytes, partial(_at, connection, peer, action))

    # ---- penalties

    def penalise(self, peer: bytes, points: int, reason: str) -> None:
        now = trio.current_time()
        consequence = self.scores.penalise(peer, points, now)
        self.world.penalties.append(Penalty(now, self.peer, peer, points, reason))
        name = self.world.hosts[peer].name if peer in self.world.hosts else "nobody"
        self.world.trace.note(self.host.name, "penalty", name, points, reason)
        if consequence is not Consequence.NONE and peer in self._connections:
            self._connections[peer].close(self.peer, consequence.value)

    def is_banned(self, peer: bytes) -> bool:
        return self.scores.is_banned(peer, trio.current_time())

    def _dialled(self) -> int:
        return sum(each.dialler == self.peer for each in self._connections.values())

    def _is_unwelcome(self, peer: bytes) -> bool:
        low = self.scores.score(peer, trio.current_time()) <= limits.SCORE_DISCONNECT
        return low or self.is_banned(peer)

    # ---- streams

    async def open_stream(self, peer: bytes, protocol: str) -> SimStream:
        try:
            with trio.fail_after(limits.OPEN_STREAM_S):
                if peer not in self._connections:
                    await self._dial(peer)
                return await self._negotiated(peer, protocol)
        except trio.TooSlowError as error:
            raise RemoteError(f"no {protocol} stream in time", peer=peer) from error
        except RemoteError as error:
            raise RemoteError(f"no {protocol} stream: {error.reason}", peer=peer) from error

    async def _negotiated(self, peer: bytes, protocol: str) -> SimStream:
        connection = self._connections.get(peer)
        if connection is None:
            raise RemoteError("the connection was lost", peer=peer)
        stream = SimStream(connection, self.peer, self._traffic)

        def offered(far: SimNetwork) -> None:
            is_spoken = far.accept(protocol, stream, connection)
            connection.send(far.peer, 20, partial(stream.told, is_spoken))

        connection.send(self.peer, 80, partial(_at, connection, peer, offered))
        try:
            is_spoken = await stream.accepted()
        except trio.Cancelled:
            await stream.reset()
            raise
        if not is_spoken:
            raise RemoteError("the protocol is not spoken there", peer=peer)
        return stream

    def accept(self, protocol: str, near: SimStream, connection: Connection) -> bool:
        """Serve the other end of a stream that a peer opens; whether we speak the protocol."""
        handler = self._handlers.get(protocol)
        if handler is None or self._nursery is None:
            return False
        stream = SimStream(connection, self.peer, self._traffic)
        stream.join(near)
        self._nursery.start_soon(self._serve, protocol, handler, stream)
        return True

    async def _serve(self, protocol: str, handler: Handler, stream: SimStream) -> None:
        with stream.scope:
            try:
                await handler(stream)
                await stream.close()
            except RemoteError as error:
                if error.penalty:
                    self.penalise(error.peer or stream.peer, error.penalty, error.reason)
                await stream.reset()
            except Exception as error:  # noqa: BLE001  the border that the real host has
                self._traffic.handler_errors += 1
                self.handler_errors.append(error)
                self.world.trace.note(self.host.name, "handler failed", protocol, repr(error))
                await stream.reset()

    def handle(self, protocol: str, handler: Handler) -> None:
        self._handlers[protocol] = handler

    # ---- gossip

    def subscribe(self, topic: str, validate: Validator, deliver: Deliver) -> None:
        is_new = topic not in self._topics.names()
        self._topics.set(topic, validate, deliver)
        if is_new:
            self.gossip.follow(topic)

    def unsubscribe(self, topic: str) -> None:
        self._topics.remove(topic)
        self.gossip.unfollow(topic)

    async def publish(self, topic: str, data: bytes) -> None:
        if len(data) > limits.GOSSIP_MESSAGE_BYTES:
            raise LocalError(f"{len(data)} bytes are too much for gossip")
        await trio.lowlevel.checkpoint_if_cancelled()
        self.gossip.publish(topic, data)

    # ---- DHT

    async def meet_nearest(self) -> None:
        """There are no routing tables here."""
        await trio.lowlevel.checkpoint()

    async def provide(self, key: bytes) -> None:
        await self.discovery.provide(key)

    async def find_providers(self, key: bytes, count: int) -> Found:
        within_s = limits.DHT_QUERY_S * ASKED
        with self._waits.named("the DHT", "who provides what is missing", within_s):
            return await self.discovery.find(key, count)


def _at(connection: Connection, peer: bytes, action: Callable[[SimNetwork], None]) -> None:
    """At the node of this end, if it is still there."""
    if (network := connection.network(peer)) is not None:
        action(network)
