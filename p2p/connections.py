"""Who is connected since when: the library's per-connection events made into per-peer ones.

Also who of them is *chosen*: the few peers that a node leans on, whatever crowd has come to it. Those it
dialled before those that came, old ones before new ones, and only so many of one network (/16,
/32), since networks are what an attacker lacks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

import trio
from libp2p.abc import INetConn, INetStream, INetwork, INotifee
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.rcmgr import Direction
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from primed.p2p import addresses, limits


class Connected(NamedTuple):
    """`network`: /16 or /32, "" if it is not known."""

    since_s: float
    direction: str  # "in" or "out"
    network: str = ""


def choose(peers: Mapping[bytes, Connected], per_network: int) -> frozenset[bytes]:
    """The chosen ones of those connected."""
    chosen: list[bytes] = []
    crowd: Counter[str] = Counter()
    for peer, entry in sorted(peers.items(), key=lambda i: (i[1].direction == "in", i[1].since_s)):
        network = entry.network
        if crowd[network] < per_network and len(chosen) < limits.CHOSEN_PEERS:
            crowd[network] += 1
            chosen.append(peer)
    return frozenset(chosen)


class Connections(INotifee):
    """`on_change(peer, connected?, direction)` at the first connection and after the last one."""

    def __init__(
        self, on_change: Callable[[bytes, bool, str], None], profile: limits.Profile
    ) -> None:
        self._on_change = on_change
        self._per_network = profile.chosen_per_network
        self._chosen: frozenset[bytes] = frozenset()
        self._peers: dict[bytes, Connected] = {}
        self._changed = trio.Event()

    def peers(self) -> Collection[bytes]:
        return self._peers.keys()

    def entries(self) -> Iterable[tuple[bytes, Connected]]:
        return tuple(self._peers.items())

    def is_outbound(self, peer: bytes) -> bool:
        """Whether we are connected to it because we chose to dial it."""
        entry = self._peers.get(peer)
        return entry is not None and entry.direction == "out"

    def dialled(self) -> int:
        """How many we are connected to because we chose to dial them."""
        return sum(entry.direction == "out" for entry in self._peers.values())

    def chosen(self) -> frozenset[bytes]:
        return self._chosen

    def network_of(self, peer: bytes) -> str:
        entry = self._peers.get(peer)
        return entry.network if entry else ""

    def of_the_crowd(self) -> bytes | None:
        """The youngest peer that is not chosen, of the network with the most connections: it can go
        when a peer of another network should come."""
        crowd = Counter(entry.network for entry in self._peers.values())
        largest, size = crowd.most_common(1)[0] if crowd else ("", 0)
        if size <= self._per_network:
            return None
        members = [p for p in self._peers.keys() - self._chosen if self.network_of(p) == largest]
        return max(members, key=lambda peer: self._peers[peer].since_s, default=None)

    def clear(self) -> None:
        self._peers.clear()
        self._chosen = frozenset()

    async def wait_for_change(self, at_most_s: float) -> bool:
        """Whether a peer came or went in this time."""
        with trio.move_on_after(at_most_s) as patience:
            await self._changed.wait()
        return not patience.cancelled_caught

    async def connected(self, network: INetwork, conn: INetConn) -> None:
        peer = conn.muxed_conn.peer_id.to_bytes()
        if peer in self._peers or conn.is_closed:
            return
        inbound = isinstance(conn, SwarmConn) and conn.direction == Direction.INBOUND
        direction = "in" if inbound else "out"
        self._peers[peer] = Connected(trio.current_time(), direction, _network_at(conn))
        self._tell(peer, True, direction)

    async def disconnected(self, network: INetwork, conn: INetConn) -> None:
        peer_id = conn.muxed_conn.peer_id
        others = network.connections.get(peer_id, [])
        if any(other is not conn and not other.is_closed for other in others):
            return
        if gone := self._peers.pop(peer_id.to_bytes(), None):
            self._tell(peer_id.to_bytes(), False, gone.direction)

    def _tell(self, peer: bytes, is_connected: bool, direction: str) -> None:
        self._chosen = choose(self._peers, self._per_network)
        self._changed.set()
        self._changed = trio.Event()
        self._on_change(peer, is_connected, direction)

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None: ...

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None: ...

    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None: ...

    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None: ...


def _network_at(conn: INetConn) -> str:
    """By the socket, not by what a peer says."""
    muxed = conn.muxed_conn
    remote = muxed.secured_conn.get_remote_address() if isinstance(muxed, Yamux) else None
    return addresses.network(remote[0]) if remote else ""
