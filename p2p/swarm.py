"""libp2p's swarm, restricted: who may connect, how long a dial lasts, what is given back.

Replaces three parts of the library: its dialling (one address a peer, 60 s of negative cache,
250 ms a dial, no time limit), its handling of inbound connections (a slot and a task stay taken
for the life of the node), and its missing bans.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol
from weakref import WeakSet

import trio
from libp2p.abc import IMuxedConn, INetConn, IRawConnection, ISecureConn
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_keys
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.trio import TrioTCPStream
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.rcmgr import Direction
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.transport.exceptions import OpenConnectionError
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from primed.p2p import addresses, limits
from primed.p2p.bulk.sockets import TLS_RECORD, release
from primed.p2p.doorkeeper import Doorkeeper, Place
from primed.p2p.muxer import BoundedMuxers, BoundedYamux
from primed.p2p.network import Traffic
from primed.p2p.peerstore import BoundedPeerStore
from primed.p2p.relay.circuit import CircuitConnection
from primed.p2p.sockets import BufferedTCP, remote_of
from primed.p2p.streams import root_cause


class Policy(Protocol):
    """What the swarm asks its owner."""

    def is_banned(self, peer: bytes) -> bool: ...

    def is_unwelcome(self, peer: bytes) -> bool:
        """Banned, or of low score: it is not dialled, for a lookup in the DHT say."""

    def known_addresses(self, peer: bytes) -> Sequence[str]:
        """Where to dial a peer, best first, without /p2p/."""

    async def call(self, relay: bytes, peer: bytes) -> IRawConnection:
        """A circuit to a peer by way of a relay that we are connected to."""

    def on_secured(self, peer: bytes) -> None:
        """A new inbound connection has proven to be this peer's."""

    def on_bulk_socket(self, sock: socket.socket, ip: str) -> None:
        """Take over an inbound socket that begins like TLS."""


class GuardedSwarm(Swarm):
    """TCP, Noise and Yamux; nothing else is offered or accepted."""

    def __init__(
        self, keys: KeyPair, profile: limits.Profile, policy: Policy, traffic: Traffic
    ) -> None:
        self._sockets: WeakSet[BufferedTCP] = WeakSet()
        peer_id = ID.from_pubkey(keys.public_key)
        peerstore = BoundedPeerStore(lambda p: p == peer_id or p in self.connections)
        peerstore.add_key_pair(peer_id, keys)
        noise = NoiseTransport(keys, noise_privkey=create_noise_keys().private_key)
        upgrader = _Upgrader(noise, policy.on_secured)
        super().__init__(
            peer_id,
            peerstore,
            upgrader,
            transports=[_TimedTCP(self._source_for, self._sockets)],  # also `knock`'s
            retry_config=RetryConfig(max_retries=0),
            connection_config=_connection_config(profile),
        )
        self.auto_connector = _NoAutoConnector(self)
        self._policy = policy
        self._traffic = traffic
        self._doorkeeper = Doorkeeper(replace(profile, connections=profile.inbound))
        self._inbound: dict[Place, BufferedTCP] = {}
        self._dial_locks: dict[ID, trio.Lock] = {}
        self._dialled: dict[ID, str] = {}  # the address that worked

    async def dial_peer(self, peer_id: ID) -> list[INetConn]:
        """Connect by the first address that works; concurrent callers share one dial."""
        lock = self._dial_locks.setdefault(peer_id, trio.Lock())
        try:
            async with lock:
                live = [c for c in self.get_connections(peer_id) if not c.is_closed]
                return live or [await self._dial(peer_id)]
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._dial_locks.pop(peer_id, None)

    async def _dial(self, peer_id: ID) -> INetConn:
        if peer_id == self.self_id or self._policy.is_unwelcome(peer_id.to_bytes()):
            raise SwarmException("not dialled: ourselves, banned or of low score")
        reason = "no address known"
        for address in self._policy.known_addresses(peer_id.to_bytes())[: limits.ADDRESSES_TRIED]:
            try:
                relay = addresses.relay_of(address)
                if relay:
                    return await self._dial_circuit(address, relay, peer_id)
                with trio.fail_after(limits.DIAL_S + limits.UPGRADE_S):
                    connection = await self.dial_addr(Multiaddr(address), peer_id)
                    self._dialled[peer_id] = address
                    return connection
            except (BaseLibp2pError, ValueError) as error:
                reason = f"{address}: {root_cause(error)}"
            except trio.TooSlowError:
                reason = f"{address}: no handshake in time"
        raise SwarmException(reason)

    def _source_for(self, ip: str) -> str | None:
        """The IP we listen at, if there is one of this kind and it is not all of them."""
        kind = addresses.kind_of(ip)
        listening = {a.split("/")[2] for a in self.listeners}
        mine = [own for own in listening if addresses.kind_of(own) == kind]
        return mine[0] if len(mine) == 1 else None

    async def _dial_circuit(self, address: str, relay: bytes, peer_id: ID) -> INetConn:
        with trio.fail_after(limits.OPEN_STREAM_S + limits.UPGRADE_S):
            if self.ip_of(relay) is None:
                if self._policy.is_banned(relay) or relay == self.self_id.to_bytes():
                    raise SwarmException("the relay is ourselves or banned")
                at = Multiaddr(address.partition("/p2p/")[0])
                await self.dial_addr(at, ID(relay))
            circuit = await self._policy.call(relay, peer_id.to_bytes())
            try:
                return await self.upgrade_outbound_raw_conn(circuit, peer_id)
            except BaseException:
                await circuit.close()
                raise

    async def knock(self, peer: bytes, ip: str, port: int) -> None:
        """Whether this peer answers there: TCP and Noise, then hang up. Raises SwarmException."""
        address, raw = Multiaddr(addresses.at(ip, port)), None
        transport = self.transport_manager.transport_for_dialing(address)
        assert transport is not None
        try:
            with trio.fail_after(limits.DIAL_S + limits.UPGRADE_S):
                raw = await transport.dial(address)
                await self.upgrader.upgrade_security(raw, True, ID(peer))
        except (BaseLibp2pError, trio.TooSlowError, OSError, ValueError, EOFError) as error:
            raise SwarmException(f"{address}: {root_cause(error)}") from error
        finally:
            if raw is not None:
                with trio.CancelScope(shield=True), suppress(BaseLibp2pError):
                    await raw.close()

    def ip_of(self, peer: bytes) -> str | None:
        """Where a connected peer is, by our direct connection to it."""
        live = (c for c in self.get_connections(ID(peer)) if not c.is_closed)
        return next(filter(None, map(_ip_at, live)), None)

    def dialled_address(self, peer: bytes) -> str | None:
        """Where our live outbound connection to a peer leads."""
        if Direction.OUTBOUND not in self._directions(peer):
            return None
        return self._dialled.get(ID(peer))

    def is_dialled_by(self, peer: bytes) -> bool:
        return Direction.INBOUND in self._directions(peer)

    def _directions(self, peer: bytes) -> set[Direction]:
        """Of our direct connections to a peer."""
        live = (c for c in self.get_connections(ID(peer)) if not c.is_closed)
        return {c.direction for c in live if isinstance(c, SwarmConn) and _ip_at(c)}

    async def add_conn(self, muxed_conn: IMuxedConn, direction: str = "unknown") -> SwarmConn:
        if self._policy.is_banned(muxed_conn.peer_id.to_bytes()):
            await muxed_conn.close()
            raise SwarmException("banned peer")
        try:
            connection = await super().add_conn(muxed_conn, direction)
        except BaseException:  # cancelled, say: the library would leave the socket open
            if isinstance(muxed_conn, BoundedYamux):
                await muxed_conn.hang_up()
            raise
        if self._policy.is_banned(muxed_conn.peer_id.to_bytes()):  # meanwhile
            await connection.close()
            raise SwarmException("banned peer")
        return connection

    async def close_peer(self, peer_id: ID) -> None:
        """Close the connections that there are now. The library's forgets those that come while it
        waits (200 ms each): they lived on unseen, so that no later ban could end them."""
        async with trio.open_nursery() as nursery:
            for connection in self.get_connections(peer_id):
                nursery.start_soon(self._close_connection_async, connection)

    async def _handle_inbound_connection(
        self, read_write_closer: ReadWriteCloser, maddr: Multiaddr
    ) -> None:
        """Lives as long as the connection, which gives its place back by returning."""
        assert isinstance(read_write_closer, TrioTCPStream)  # our one transport
        stream = read_write_closer.stream
        try:
            ip = remote_of(stream)[0]
        except OSError:  # gone already
            ip = ""
        place = self._admit(ip) if ip else None
        if place is None:
            self._traffic.refused_connections += 1
            await trio.aclose_forcefully(stream)
            return
        self._inbound[place] = inbound = BufferedTCP(stream)
        self._sockets.add(inbound)
        try:
            if await self._is_for_bulk(inbound, ip):
                return
            muxed = await self.upgrade_inbound_raw_conn(RawConnection(inbound, False), maddr)
            if isinstance(muxed, BoundedYamux):
                await muxed.event_closed.wait()
        finally:
            self._doorkeeper.leave(place)
            self._inbound.pop(place, None)
            with suppress(BaseLibp2pError), trio.move_on_after(1.0) as scope:
                scope.shield = True
                await inbound.close()

    def _admit(self, ip: str) -> Place | None:
        now_s = trio.current_time()
        if place := self._doorkeeper.enter(ip, now_s):
            return place
        if leaving := self._doorkeeper.who_should_go(ip, now_s):
            self._traffic.evicted_connections += 1
            self._doorkeeper.leave(leaving)
            self._inbound.pop(leaving).stream.socket.close()  # its reader notices and cleans up
            return self._doorkeeper.enter(ip, now_s)
        return None

    async def _is_for_bulk(self, inbound: BufferedTCP, ip: str) -> bool:
        """Give sockets that begin like TLS away; others, and silent ones, go on to libp2p."""
        with trio.move_on_after(limits.UPGRADE_S), suppress(OSError):
            first = await inbound.stream.socket.recv(1, socket.MSG_PEEK)
            if first == TLS_RECORD:
                self._policy.on_bulk_socket(release(inbound.stream), ip)
                return True
        return False

    async def hang_up_all(self) -> None:
        """Close every connection at once; the library does it one by one, 200 ms each."""
        async with trio.open_nursery() as nursery:
            for connection in self.get_connections():
                nursery.start_soon(self._close_connection_async, connection)

    def close_sockets(self) -> None:
        """At the very end: those of connections that were being made when all was cancelled."""
        for tcp in self._sockets:
            tcp.stream.socket.close()


def _ip_at(connection: INetConn) -> str | None:
    """The IP at the other end; None over a relay."""
    muxed = connection.muxed_conn
    remote = muxed.secured_conn.get_remote_address() if isinstance(muxed, BoundedYamux) else None
    return remote[0] if remote else None


class _Upgrader(TransportUpgrader):
    """Tells who proved an identity on an inbound connection, before anything else is agreed on."""

    def __init__(self, noise: NoiseTransport, on_secured: Callable[[bytes], None]) -> None:
        super().__init__({NOISE: noise}, {})
        self.muxer_multistream = BoundedMuxers()
        self._on_secured = on_secured

    async def upgrade_security(
        self, raw_conn: IRawConnection, is_initiator: bool, peer_id: ID | None = None
    ) -> ISecureConn:
        secured = await super().upgrade_security(raw_conn, is_initiator, peer_id)
        if not is_initiator and not isinstance(raw_conn, CircuitConnection):
            self._on_secured(secured.get_remote_peer().to_bytes())
        return secured


class _TimedTCP(TCP):
    """TCP that does not wait minutes for a host that drops packets.

    Dials from the IP we listen at, if that is one in particular: peers then see the address that
    they can reach us by.
    """

    def __init__(
        self, source_for: Callable[[str], str | None], sockets: WeakSet[BufferedTCP]
    ) -> None:
        super().__init__(dns_max_retries=1)
        self._source_for = source_for
        self._sockets = sockets

    async def dial(self, maddr: Multiaddr) -> IRawConnection:
        try:
            with trio.fail_after(limits.DIAL_S):
                return await super().dial(maddr)
        except trio.TooSlowError as error:
            raise OpenConnectionError(f"{maddr}: no answer in {limits.DIAL_S:.0f} s") from error

    async def _dial_resolved(
        self, maddr: Multiaddr, source: tuple[str, int] | None = None
    ) -> IRawConnection:
        host, port = str(maddr).split("/")[2:5:2]
        try:
            stream = await trio.open_tcp_stream(
                host, int(port), local_address=self._source_for(host)
            )
        except (OSError, ValueError) as error:
            raise OpenConnectionError(f"{maddr}: {root_cause(error)}") from error
        outbound = BufferedTCP(stream)
        self._sockets.add(outbound)
        return RawConnection(outbound, True)


class _NoAutoConnector(AutoConnector):
    """The library's own dialling of whatever is in its address book, switched off."""

    async def maybe_connect(self) -> None:
        return


def _connection_config(profile: limits.Profile) -> ConnectionConfig:
    """No automatic connecting or pruning: the overlay decides."""
    return ConnectionConfig(
        max_connections=profile.connections,
        min_connections=0,
        low_watermark=0,
        high_watermark=profile.connections,
        max_connections_per_peer=2,  # both sides may dial at the same time
        dial_timeout=limits.DIAL_S,
        inbound_upgrade_timeout=limits.UPGRADE_S,
        outbound_upgrade_timeout=limits.UPGRADE_S,
        outbound_stream_protocol_negotiation_timeout=limits.NEGOTIATE_S,
        inbound_stream_protocol_negotiation_timeout=limits.NEGOTIATE_S,
        auto_connect_interval=3600.0,
    )
