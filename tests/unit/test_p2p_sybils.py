"""Scenario 26, the pure parts: whom a node leans on, and who gets into a mesh."""

from __future__ import annotations

import random

from libp2p.peer.id import ID

from primed.p2p import limits, peerid
from primed.p2p.connections import Connected, choose
from primed.p2p.meshplaces import MeshPlaces


def peer_number(number: int) -> bytes:
    return peerid.of_public_key(number.to_bytes(32, "big"))


def crowd(
    count: int, network: str, direction: str, since_s: float, start: int
) -> dict[bytes, Connected]:
    return {
        peer_number(start + n): Connected(since_s + n, direction, network) for n in range(count)
    }


def test_the_chosen_are_dialled_or_old_and_few_of_one_network() -> None:
    sybils = crowd(40, "66.6.0.0/16", "in", 0.0, 1000)  # they came first
    old = {peer_number(1): Connected(100.0, "in", "1.1.0.0/16")}
    young = {peer_number(2): Connected(200.0, "in", "2.2.0.0/16")}
    dialled = {peer_number(3): Connected(300.0, "out", "3.3.0.0/16")}
    chosen = choose({**sybils, **old, **young, **dialled}, per_network=2)
    assert {peer_number(1), peer_number(2), peer_number(3)} <= chosen
    assert len(chosen & sybils.keys()) == 2


def test_the_chosen_are_few_and_dialled_ones_come_first() -> None:
    came = {peer_number(n): Connected(float(n), "in", f"{n}.0.0.0/16") for n in range(1, 50)}
    dialled = {peer_number(100): Connected(1e6, "out", "100.0.0.0/16")}
    chosen = choose({**came, **dialled}, per_network=2)
    assert len(chosen) == limits.CHOSEN_PEERS
    assert chosen == {peer_number(n) for n in range(1, limits.CHOSEN_PEERS)} | dialled.keys()


class Swarm:
    """Forty Sybils of one network, and honest peers of a network each, some of them chosen."""

    def __init__(self, chosen: int) -> None:
        self.sybils = [ID(peer_number(1000 + n)) for n in range(40)]
        self.honest = [ID(peer_number(n)) for n in range(12)]
        leaned_on = {p.to_bytes() for p in self.honest[:chosen]}
        networks = {p.to_bytes(): f"{n}.0.0.0/16" for n, p in enumerate(self.honest, 10)}
        self.places = MeshPlaces(
            leaned_on.__contains__,
            lambda peer: networks.get(peer, "66.6.0.0/16"),
            limits.HOME,
            12,
            random.Random(1),
        )


def test_a_crowd_that_grafts_gets_a_few_places_and_the_others_are_left_for_others() -> None:
    swarm = Swarm(chosen=3)
    members: set[ID] = set()
    for peer_id in [*swarm.sybils, *swarm.honest[3:], *swarm.honest[:3]]:
        if swarm.places.admits(members, peer_id):
            members.add(peer_id)
    assert len(members & set(swarm.sybils)) == limits.HOME.mesh_per_network
    assert set(swarm.honest[:3]) <= members
    assert len(members) == 12


def test_whom_we_graft_ourselves_is_of_many_networks_too() -> None:
    swarm = Swarm(chosen=0)
    members = set(swarm.sybils[:3])
    for _ in range(20):
        picked = swarm.places.pick(6, [*swarm.sybils, *swarm.honest], members)
        assert len(picked) == 6
        assert len(set(picked) & set(swarm.sybils)) <= limits.HOME.mesh_per_network - 3
        assert not set(picked) & members


def test_chosen_peers_are_added_until_there_are_enough_and_are_the_last_to_leave() -> None:
    swarm = Swarm(chosen=5)
    members = set(swarm.sybils[:10])
    missing = swarm.places.missing_chosen(members, [*swarm.honest, *swarm.sybils])
    assert len(missing) == limits.GOSSIP_MESH_CHOSEN
    assert set(missing) <= set(swarm.honest[:5])
    assert swarm.places.missing_chosen(members | set(missing), swarm.honest) == []
    for _ in range(20):
        leaving = swarm.places.to_leave(members | set(missing), 7)
        assert len(leaving) == 7 and not set(leaving) & set(missing)
