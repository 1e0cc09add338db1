"""The DHT: who is out there, and who serves a key (Kademlia with the standard prefix).

Only peers whose identify lists our membership protocol enter the routing table, so a foreign
network cannot fill it. Everything found is a hint for the peer book; hello proves membership.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

import trio
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.kad_dht.pb.kademlia_pb2 import Record
from libp2p.kad_dht.provider_store import ProviderStore
from libp2p.kad_dht.routing_table import RoutingTable
from libp2p.kad_dht.value_store import ValueStore
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.peer.peerstore import PeerStoreError
from multiaddr.exceptions import Error as MultiaddrError  # type: ignore[import-untyped]

from primed.p2p import limits
from primed.p2p.guard import GuardedHost
from primed.p2p.network import Traffic
from primed.p2p.peerbook import FROM_DHT, PeerBook
from primed.p2p.waits import OpenWaits

_log = logging.getLogger(__name__)


class MembersTable(RoutingTable):
    """A routing table that takes members only."""

    def __init__(self, host: GuardedHost, is_member: Callable[[bytes], bool]) -> None:
        # Subnet limits off: whole swarms share a subnet (and tests a host).
        super().__init__(host.get_id(), host, max_peers_per_subnet=0)
        self._is_member = is_member

    async def add_peer(
        self, peer_obj: PeerInfo | ID, *, skip_server_mode_check: bool = False
    ) -> bool:
        peer_id = peer_obj.peer_id if isinstance(peer_obj, PeerInfo) else peer_obj
        if not self._is_member(peer_id.to_bytes()):
            return False
        return await super().add_peer(peer_obj, skip_server_mode_check=skip_server_mode_check)


class _BoundedProviders(ProviderStore):
    """The library bounds the providers of a key, not the keys, nor what a provider tells of itself."""

    def add_provider(self, key: bytes, provider: PeerInfo) -> None:
        if key not in self.providers and len(self.providers) >= limits.PROVIDED_KEYS:
            self.cleanup_expired()
            others = (old for old in self.providers if old not in self.providing_keys)
            if len(self.providers) >= limits.PROVIDED_KEYS:
                del self.providers[next(others)]  # the oldest
        few = provider.addrs[: limits.ADDRESSES_PER_PEER]
        super().add_provider(key, PeerInfo(provider.peer_id, few))


class _NoValues(ValueStore):
    """We neither need nor keep other peers' values: the library would keep 50,000 of 4 MiB."""

    def put_record(self, key: bytes, record: Record) -> None:
        return


class Discovery:
    def __init__(
        self,
        host: GuardedHost,
        book: PeerBook,
        member_protocol: str,
        traffic: Traffic,
        waits: OpenWaits,
    ) -> None:
        self._waits = waits
        self._traffic = traffic
        self._host = host
        self._book = book
        self._member_protocol = member_protocol
        self.dht = KadDHT(host, DHTMode.SERVER, max_peers_per_subnet=0)
        self.dht.value_store = _NoValues(host, host.get_id())
        self.dht.provider_store = _BoundedProviders(host, self.dht.peer_routing)
        self.dht._inbound_limiter = trio.CapacityLimiter(2 * limits.DHT_INBOUND)  # the host counts
        table = MembersTable(host, self.is_member)
        self.dht.routing_table = table
        self.dht.peer_routing.routing_table = table
        self._provided: set[bytes] = set()
        self._announced_to = 0

    def is_member(self, peer: bytes) -> bool:
        return self._member_protocol in self._host.protocols_of(peer)

    async def add(self, peer: bytes) -> None:
        """A peer that told its protocols: into the table, if it is a member."""
        await self.dht.routing_table.add_peer(ID(peer), skip_server_mode_check=True)

    def remove(self, peer: bytes) -> None:
        self.dht.routing_table.remove_peer(ID(peer))

    async def refresh(self) -> None:
        """Look ourselves up, put what is found into the book, announce what we provide anew."""
        await self._guarded("peers that are near", self.dht.refresh_routing_table)
        await self._harvest()
        size = self.dht.get_routing_table_size()
        if size > self._announced_to:
            for key in self._provided:
                await self._announce(key)
        self._announced_to = size

    async def meet_nearest(self) -> None:
        """The search goes from peer to peer, and connects us to each that it asks."""

        async def search() -> None:
            await self.dht.peer_routing.find_closest_peers_network(self._host.get_id().to_bytes())

        await self._guarded("peers that are near", search)

    async def _harvest(self) -> None:
        store = self._host.get_peerstore()
        for peer_id in store.peers_with_addrs():  # a copy
            await trio.lowlevel.checkpoint()  # a peer takes a millisecond, and they may be many
            peer = peer_id.to_bytes()
            self._book.learn(peer, self.addresses_of(peer), FROM_DHT, time.time())

    def addresses_of(self, peer: bytes) -> list[str]:
        """What the library knows, from identify and the DHT, as far as it can be read."""
        try:
            known = self._host.get_peerstore().addrs(ID(peer))
        except PeerStoreError:
            return []
        texts = []
        for address in known:
            try:
                texts.append(str(address))
            except (MultiaddrError, ValueError, LookupError):  # bytes that a peer made up
                continue
        return texts

    async def provide(self, key: bytes) -> None:
        self._provided.add(key)
        await self._announce(key)

    async def _announce(self, key: bytes) -> None:
        async def announce() -> None:
            await self.dht.provider_store.provide(key)

        await self._guarded("peers to keep what this node provides", announce)

    async def find(self, key: bytes, count: int) -> list[tuple[bytes, tuple[str, ...]]]:
        """Providers of a key but ourselves. The library stops at its own records; this asks on."""
        found: dict[bytes, tuple[str, ...]] = {}

        def collect(providers: list[PeerInfo]) -> None:
            for info in providers[: limits.PROVIDERS_MAX]:
                peer = info.peer_id.to_bytes()
                if info.peer_id != self._host.get_id() and len(found) < limits.PROVIDERS_MAX:
                    found.setdefault(
                        peer, tuple(str(a) for a in info.addrs[: limits.ADDRESSES_PER_PEER])
                    )

        async def ask(peer_id: ID) -> None:
            store = self.dht.provider_store
            with trio.move_on_after(limits.DHT_QUERY_S):
                providers, _ = await store._get_providers_from_peer_with_closers(peer_id, key)
                collect(providers)

        async def search() -> None:
            closest = await self.dht.peer_routing.find_closest_peers_network(key)
            async with trio.open_nursery() as nursery:
                for peer_id in closest:
                    if peer_id != self._host.get_id():
                        nursery.start_soon(ask, peer_id)

        collect(self.dht.provider_store.get_providers(key))
        if len(found) < count:
            await self._guarded("who provides what is missing", search)
        return list(found.items())[:count]

    async def _guarded(self, what: str, action: Callable[[], Awaitable[None]]) -> None:
        """The library's queries work on what peers answer; no answer may end the node, none is
        waited for too long."""
        try:
            with self._waits.named("the DHT", what, limits.DHT_CALL_S):
                with trio.move_on_after(limits.DHT_CALL_S):
                    await action()
        except Exception as error:  # noqa: BLE001  the border
            self._traffic.handler_errors += 1
            _log.warning("DHT query failed: %r", error)
