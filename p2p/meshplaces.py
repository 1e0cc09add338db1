"""Who gets into a topic's mesh: few of one network, and always some chosen peers. Pure.

A mesh is what a message travels by, so whoever fills it can make a node deaf. Sybils cost nothing,
but networks (/16, /32) do: of one network only so many are taken, chosen peers (`connections`)
excepted, who are few of one network themselves. After gossipsub 1.1 ("D_out"), which trusts whoever was dialled.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection

from libp2p.peer.id import ID

from primed.p2p import limits


class MeshPlaces:
    """`network_of`: where a connected peer is, "" if that is not known."""

    def __init__(
        self,
        is_chosen: Callable[[bytes], bool],
        network_of: Callable[[bytes], str],
        profile: limits.Profile,
        most: int,
        rng: random.Random | None = None,
    ) -> None:
        self._is_chosen = is_chosen
        self._network_of = network_of
        self._per_network = profile.mesh_per_network
        self._most = most
        self._rng = rng or random.Random()

    def chosen(self, peers: Collection[ID]) -> set[ID]:
        return {peer_id for peer_id in peers if self._is_chosen(peer_id.to_bytes())}

    def admits(self, members: Collection[ID], peer_id: ID) -> bool:
        if self._is_chosen(peer_id.to_bytes()):
            return len(members) < self._most
        others = [m for m in members if not self._is_chosen(m.to_bytes())]
        crowd = self._crowd(others)[self._network_of(peer_id.to_bytes())]
        return len(others) < self._most - limits.GOSSIP_MESH_CHOSEN and crowd < self._per_network

    def pick(self, count: int, pool: Collection[ID], members: Collection[ID]) -> list[ID]:
        """So many of the pool by chance, as far as they fit in with the members."""
        picked: list[ID] = []
        crowd = self._crowd(members)
        shuffled = [peer_id for peer_id in pool if peer_id not in members]
        self._rng.shuffle(shuffled)
        for peer_id in shuffled:
            network = self._network_of(peer_id.to_bytes())
            if len(picked) < count and crowd[network] < self._per_network:
                crowd[network] += 1
                picked.append(peer_id)
        return picked

    def missing_chosen(self, members: Collection[ID], able: Collection[ID]) -> list[ID]:
        """Chosen peers that should join the members, of those that are able to."""
        chosen = self.chosen(able)
        missing = limits.GOSSIP_MESH_CHOSEN - len(self.chosen(members))
        waiting = sorted(chosen.difference(members), key=lambda peer_id: peer_id.to_bytes())
        self._rng.shuffle(waiting)
        return waiting[: max(0, missing)]

    def to_leave(self, members: Collection[ID], count: int) -> list[ID]:
        """So many by chance; the last few chosen ones stay."""
        kept = set(list(self.chosen(members))[: limits.GOSSIP_MESH_CHOSEN])
        free = [peer_id for peer_id in members if peer_id not in kept]
        return self._rng.sample(free, min(count, len(free)))

    def _crowd(self, members: Collection[ID]) -> Counter[str]:
        return Counter(self._network_of(peer_id.to_bytes()) for peer_id in members)
