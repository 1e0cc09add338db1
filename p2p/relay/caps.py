"""What a relay allows: reservations and circuits, counted. Pure: times are passed in."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from primed.p2p import limits


class _Reservation(NamedTuple):
    ip: str
    until_s: float


class Caps:
    """A reservation lasts until it expires or the peer disconnects (`drop`)."""

    def __init__(self) -> None:
        self._reservations: dict[bytes, _Reservation] = {}
        self._circuits: Counter[bytes] = Counter()  # by the reserved peer
        self._callers: Counter[str] = Counter()  # and by the caller's IP

    def reserve(self, peer: bytes, ip: str, now_s: float) -> bool:
        """Anew or longer; False if there is no room, in all or for this IP."""
        self._expire(now_s)
        others = [r for p, r in self._reservations.items() if p != peer]
        of_ip = sum(r.ip == ip for r in others)
        if len(others) >= limits.RELAY_RESERVATIONS or of_ip >= limits.RELAY_RESERVATIONS_PER_IP:
            return False
        self._reservations[peer] = _Reservation(ip, now_s + limits.RELAY_RESERVATION_S)
        return True

    def holds(self, peer: bytes, now_s: float) -> bool:
        self._expire(now_s)
        return peer in self._reservations

    def drop(self, peer: bytes) -> None:
        self._reservations.pop(peer, None)

    def begin(self, caller_ip: str, to: bytes) -> bool:
        """Take a place for a circuit, to be given back by `end`."""
        if (
            self._circuits.total() >= limits.RELAY_CIRCUITS
            or self._circuits[to] >= limits.RELAY_CIRCUITS_PER_PEER
            or self._callers[caller_ip] >= limits.RELAY_CIRCUITS_PER_PEER
        ):
            return False
        self._circuits[to] += 1
        self._callers[caller_ip] += 1
        return True

    def end(self, caller_ip: str, to: bytes) -> None:
        self._circuits[to] -= 1
        self._callers[caller_ip] -= 1
        self._circuits, self._callers = +self._circuits, +self._callers  # without zeros

    def _expire(self, now_s: float) -> None:
        for peer, reservation in list(self._reservations.items()):
            if reservation.until_s <= now_s:
                del self._reservations[peer]
