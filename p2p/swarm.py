"""libp2p's swarm, restricted: who may connect, how long a dial lasts, what is given back.

Replaces three parts of the library: its dialling (one address a peer, 60 s of negative cache,
250 ms a dial, no time limit), its handling of inbound connections (a slot and a task stay taken
for the life of the node), and its missing bans.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

import trio
from libp2p.abc import IMuxedConn, INetConn, IRawConnection
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_keys
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.abc import ReadWriteCloser
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.transport.exceptions import OpenConnectionError
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from primed.p2p import addresses, limits
from primed.p2p.muxer import BoundedMuxers, BoundedYamux
from primed.p2p.streams import root_cause


class Policy(Protocol):
    """What the swarm asks its owner."""

    def is_banned(self, peer: bytes) -> bool: ...

    def known_addresses(self, peer: bytes) -> Sequence[str]:
        """Where to dial a peer, best first, without /p2p/."""


class Doorkeeper:
    """Counts inbound connections per IP and subnet. Pure."""

    def __init__(self, profile: limits.Profile) -> None:
        self._profile = profile
        self._by_ip: Counter[str] = Counter()
        self._by_subnet: Counter[str] = Counter()

    def enter(self, ip: str) -> bool:
        """Take a place, if there is one; to be given back by `leave`."""
        subnet = addresses.subnet(ip)
        if (
            self._by_ip.total() >= self._profile.connections
            or self._by_ip[ip] >= self._profile.inbound_per_ip
            or self._by_subnet[subnet] >= self._profile.inbound_per_subnet
        ):
            return False
        self._by_ip[ip] += 1
        self._by_subnet[subnet] += 1
        return True

    def leave(self, ip: str) -> None:
        for counter, key in ((self._by_ip, ip), (self._by_subnet, addresses.subnet(ip))):
            counter[key] -= 1
            if counter[key] <= 0:
                del counter[key]


class GuardedSwarm(Swarm):
    """TCP, Noise and Yamux; nothing else is offered or accepted."""

    def __init__(self, keys: KeyPair, profile: limits.Profile, policy: Policy) -> None:
        peer_id = ID.from_pubkey(keys.public_key)
        peerstore = PeerStore(max_peers=limits.PEERS_KNOWN)
        peerstore.add_key_pair(peer_id, keys)
        noise = NoiseTransport(keys, noise_privkey=create_noise_keys().private_key)
        upgrader = TransportUpgrader({NOISE: noise}, {})
        upgrader.muxer_multistream = BoundedMuxers()
        super().__init__(
            peer_id,
            peerstore,
            upgrader,
            transports=[_TimedTCP(dns_max_retries=1)],
            retry_config=RetryConfig(max_retries=0),
            connection_config=_connection_config(profile),
        )
        self.auto_connector = _NoAutoConnector(self)
        self._policy = policy
        self._doorkeeper = Doorkeeper(profile)
        self._dial_locks: dict[ID, trio.Lock] = {}

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
        if peer_id == self.self_id or self._policy.is_banned(peer_id.to_bytes()):
            raise SwarmException("not dialled: ourselves or banned")
        reason = "no address known"
        for address in self._policy.known_addresses(peer_id.to_bytes())[: limits.ADDRESSES_TRIED]:
            try:
                with trio.fail_after(limits.DIAL_S + limits.UPGRADE_S):
                    return await self.dial_addr(Multiaddr(address), peer_id)
            except (BaseLibp2pError, ValueError) as error:
                reason = f"{address}: {root_cause(error)}"
            except trio.TooSlowError:
                reason = f"{address}: no handshake in time"
        raise SwarmException(reason)

    async def add_conn(self, muxed_conn: IMuxedConn, direction: str = "unknown") -> SwarmConn:
        if self._policy.is_banned(muxed_conn.peer_id.to_bytes()):
            await muxed_conn.close()
            raise SwarmException("banned peer")
        connection = await super().add_conn(muxed_conn, direction)
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
        remote = read_write_closer.get_remote_address()
        if remote is None or not self._doorkeeper.enter(remote[0]):
            await read_write_closer.close()
            return
        try:
            connection = RawConnection(read_write_closer, False)
            muxed = await self.upgrade_inbound_raw_conn(connection, maddr)
            if isinstance(muxed, BoundedYamux):
                await muxed.event_closed.wait()
        finally:
            self._doorkeeper.leave(remote[0])
            with suppress(BaseLibp2pError), trio.move_on_after(1.0) as scope:
                scope.shield = True
                await read_write_closer.close()

    async def hang_up_all(self) -> None:
        """Close every connection at once; the library does it one by one, 200 ms each."""
        async with trio.open_nursery() as nursery:
            for connection in self.get_connections():
                nursery.start_soon(self._close_connection_async, connection)


class _TimedTCP(TCP):
    """TCP that does not wait minutes for a host that drops packets."""

    async def dial(self, maddr: Multiaddr) -> IRawConnection:
        try:
            with trio.fail_after(limits.DIAL_S):
                return await super().dial(maddr)
        except trio.TooSlowError as error:
            raise OpenConnectionError(f"{maddr}: no answer in {limits.DIAL_S:.0f} s") from error


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
