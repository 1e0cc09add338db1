"""Doorkeeper: how many inbound connections an IP and its subnet may have. Pure."""

from __future__ import annotations

from collections import Counter

from primed.p2p import addresses, limits


class Doorkeeper:
    """Counts connections per IP and subnet within a profile."""

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
