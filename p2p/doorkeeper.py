"""Doorkeeper: how many inbound connections an IP, its subnet and all together may have. Pure.

When all places are taken, the network (/16, /32) that has by far the most of them gives one up for
a network that has few: who was first must not keep everybody else out, and an attacker has few
networks. Without such a crowd the last place changes hands, so that a newcomer who knows only us can
look around for a while; those who came early stay.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from primed.p2p import addresses, limits

_CROWD = 3  # a network this much larger than the newcomer's gives up a place


class Place(NamedTuple):
    """`number` grows: the highest is the youngest."""

    number: int
    ip: str
    network: str
    since_s: float


class Doorkeeper:
    """Places within a profile, each to be given back by `leave`."""

    def __init__(self, profile: limits.Profile) -> None:
        self._profile = profile
        self._places: dict[int, Place] = {}
        self._by_ip: Counter[str] = Counter()
        self._by_subnet: Counter[str] = Counter()
        self._by_network: Counter[str] = Counter()
        self._next = 0

    def enter(self, ip: str, now_s: float = 0.0) -> Place | None:
        """A place, if there is one. now_s matters only to `who_should_go`."""
        if len(self._places) >= self._profile.connections or not self._may_come(ip):
            return None
        place = Place(self._next, ip, addresses.network(ip), now_s)
        self._next += 1
        self._places[place.number] = place
        for counter, key in self._counted(place):
            counter[key] += 1
        return place

    def who_should_go(self, ip: str, now_s: float) -> Place | None:
        """When `enter` found no place: whose place this IP should have, if anybody's. The caller
        ends that connection, gives the place back and enters again."""
        if len(self._places) < self._profile.connections or not self._may_come(ip):
            return None
        largest, crowd = self._by_network.most_common(1)[0]
        if crowd >= self._by_network[addresses.network(ip)] + _CROWD:
            return max(place for place in self._places.values() if place.network == largest)
        youngest = max(self._places.values())
        return youngest if now_s - youngest.since_s >= limits.GUEST_S else None

    def leave(self, place: Place) -> None:
        """Giving back twice is harmless."""
        if self._places.pop(place.number, None) is None:
            return
        for counter, key in self._counted(place):
            counter[key] -= 1
            if counter[key] <= 0:
                del counter[key]

    def _may_come(self, ip: str) -> bool:
        return (
            self._by_ip[ip] < self._profile.inbound_per_ip
            and self._by_subnet[addresses.subnet(ip)] < self._profile.inbound_per_subnet
        )

    def _counted(self, place: Place) -> tuple[tuple[Counter[str], str], ...]:
        return (
            (self._by_ip, place.ip),
            (self._by_subnet, addresses.subnet(place.ip)),
            (self._by_network, place.network),
        )
