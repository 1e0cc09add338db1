"""The library's memory of peers (keys, protocols, addresses), with bounds on what a peer can put in.

The library compares each new address with all known ones of a peer, without a bound: an answer of 4 MiB
in the DHT stops the loop for minutes. And when there are too many peers it forgets those without
addresses first, which is ourselves. Peers that we are connected to are kept here, whatever
crowd of strangers the DHT tells of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from libp2p.kad_dht import kad_dht, peer_routing, provider_store
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from primed.p2p import limits

for _module in (kad_dht, peer_routing, provider_store):  # 4 MiB, and parsed at one go
    vars(_module)["MAX_DHT_MESSAGE_SIZE"] = limits.DHT_MESSAGE_BYTES


class BoundedPeerStore(PeerStore):
    """`keeps`: peers that are not to be forgotten; they must be fewer than PEERS_KNOWN."""

    def __init__(self, keeps: Callable[[ID], bool]) -> None:
        super().__init__(max_peers=limits.PEERS_KNOWN)
        self._keeps = keeps

    def add_addrs(self, peer_id: ID, addrs: Sequence[Multiaddr], ttl: int = 0) -> None:
        known = self.peer_data_map.get(peer_id)
        room = limits.IDENTIFY_ADDRESSES - (len(known.get_addrs()) if known else 0)
        super().add_addrs(peer_id, list(addrs)[: max(0, room)], ttl)

    def add_protocols(self, peer_id: ID, protocols: Sequence[str]) -> None:
        super().add_protocols(peer_id, protocols)
        self._enforce_peer_limit()

    def _enforce_peer_limit(self) -> None:
        """Forget strangers, the oldest first."""
        excess = len(self.peer_data_map) - self.max_peers
        if excess > 0:
            strangers = [peer_id for peer_id in self.peer_data_map if not self._keeps(peer_id)]
            for peer_id in strangers[:excess]:
                self.clear_peerdata(peer_id)
