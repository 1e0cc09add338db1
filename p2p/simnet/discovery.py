"""Finding peers and providers in the simulation: Kademlia's results without its routing.

A provider record is kept by the HOLDERS connected peers that are closest to its key (SHA-256
distance); a search asks connected peers, closest first. Looking around asks some connected peers
for theirs. So knowledge spreads along connections, with delay, and not across a partition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from hashlib import sha256
from typing import TYPE_CHECKING, TypeVar

import trio

from primed.p2p import limits
from primed.p2p.peerbook import FROM_DHT, PeerBook

if TYPE_CHECKING:
    from primed.p2p.simnet.network import SimNetwork

HOLDERS = 3
ASKED = 6  # peers of one search
LOOKED_AT = 3  # peers asked for theirs
Found = list[tuple[bytes, tuple[str, ...]]]
T = TypeVar("T")


class Discovery:
    def __init__(self, network: SimNetwork, book: PeerBook) -> None:
        self._network = network
        self._book = book
        self._provided: dict[bytes, None] = {}
        self._records: dict[bytes, dict[bytes, tuple[str, ...]]] = {}  # key -> provider -> where

    def keep(self, key: bytes, provider: bytes, known_at: tuple[str, ...]) -> None:
        providers = self._records.setdefault(key, {})
        if provider in providers or len(providers) < limits.PROVIDERS_MAX:
            providers[provider] = known_at

    def records(self, key: bytes) -> Found:
        return list(self._records.get(key, {}).items())

    async def provide(self, key: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self._provided[key] = None
        self._announce(key)

    def _announce(self, key: bytes) -> None:
        me, known_at = self._network.peer, self._network.listen_addresses()
        self.keep(key, me, known_at)
        for peer in self._closest(key)[:HOLDERS]:
            self._network.send(peer, 200, lambda far: far.discovery.keep(key, me, known_at))

    async def find(self, key: bytes, count: int) -> Found:
        found = dict(self.records(key))
        for peer in self._closest(key)[:ASKED]:
            if len(found) > count:
                break
            answer = await self._ask(peer, lambda far: far.discovery.records(key))
            found |= dict(answer or [])
        found.pop(self._network.peer, None)
        return list(found.items())[:count]

    async def refresh(self) -> None:
        """Learn whom some connected peers know; announce again what we provide."""
        connected = self._network.connected()
        rng = self._network.world.rng
        for peer in rng.sample(connected, min(LOOKED_AT, len(connected))):
            for found, known_at in await self._ask(peer, lambda far: far.acquaintances()) or ():
                self._book.learn(found, known_at, FROM_DHT)
        for key in self._provided:
            self._announce(key)

    def _closest(self, key: bytes) -> list[bytes]:
        return sorted(self._network.connected(), key=lambda peer: _distance(key, peer))

    async def _ask(self, peer: bytes, question: Callable[[SimNetwork], T]) -> T | None:
        """The answer of a connected peer, None if there is none in time."""
        answers: list[T] = []
        answered = trio.Event()
        me = self._network.peer

        def take(answer: T, _: SimNetwork) -> None:
            answers.append(answer)
            answered.set()

        def there(far: SimNetwork) -> None:
            far.send(me, 500, partial(take, question(far)))

        self._network.send(peer, 100, there)
        with trio.move_on_after(limits.DHT_QUERY_S):
            await answered.wait()
        return answers[0] if answers else None


@lru_cache(maxsize=4096)
def _point(name: bytes) -> int:
    return int.from_bytes(sha256(name).digest(), "big")


def _distance(key: bytes, peer: bytes) -> int:
    return _point(key) ^ _point(peer)


def nearest(peers: Iterable[bytes], key: bytes, count: int) -> list[bytes]:
    """The peers that are closest to a key."""
    return sorted(peers, key=lambda peer: _distance(key, peer))[:count]
