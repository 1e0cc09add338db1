"""Announcer: who is told of our new leaves, and what they know already. Pure.

Asking what we have is subscribing: from then on the peer is told what we gain, at once for the first
few times and then at most once in ANNOUNCE_S, however often it asks again, until it says that it
wants no more, or is gone. What a peer is shown is what we have, or, of a payload that we seed, what
it is to spread.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from primed.protocols.limits import (
    ANNOUNCE_S,
    ANNOUNCED_AT_ONCE,
    ANNOUNCED_LEAVES,
    SUBSCRIBERS,
    SUBSCRIPTIONS_PER_PEER,
)
from primed.protocols.shardcast.bitmap import Bitmap, bits_of
from primed.protocols.shardcast.seeding import Seeding
from primed.verify.statements import Payload

_WINDOW_BYTES = 512


class Announcement(NamedTuple):
    peer: bytes
    payload: Payload
    indexes: tuple[int, ...]


@dataclass
class _Subscription:
    told: Bitmap
    free_at: float  # one announcement in ANNOUNCE_S, and ANNOUNCED_AT_ONCE in a row
    is_on_its_way: bool = False

    def may_be_told(self, now: float) -> bool:
        return not self.is_on_its_way and self.free_at <= now + ANNOUNCE_S * (ANNOUNCED_AT_ONCE - 1)

    def is_being_told(self, now: float) -> None:
        self.is_on_its_way = True
        self.free_at = max(self.free_at, now) + ANNOUNCE_S


class Announcer:
    """have(payload): the leaves that are here, live; None for an unknown payload."""

    def __init__(self, have: Callable[[Payload], Bitmap | None], rng: random.Random) -> None:
        self._have = have
        self._rng = rng
        self._subscriptions: dict[bytes, dict[Payload, _Subscription]] = {}  # by peer
        self._seedings: dict[Payload, Seeding] = {}

    def seed(self, payload: Payload) -> None:
        """A payload of ours that nobody has yet."""
        self._seedings[payload] = Seeding(payload.leaves, self._rng)

    def subscribe(self, peer: bytes, payload: Payload, now: float) -> Bitmap:
        """What to answer the peer: of a payload that we seed nothing yet, the first announcement
        follows at once and its answer tells what the peer has already."""
        have = self._have(payload)
        shown = Bitmap(0) if have is None else Bitmap(have.count, bytes(have))
        if payload in self._seedings:
            shown = Bitmap(payload.leaves)
        mine = self._subscriptions.setdefault(peer, {})
        before = mine.pop(payload, None)
        total = sum(map(len, self._subscriptions.values()))
        is_all = shown.count and shown.is_full
        if len(mine) < SUBSCRIPTIONS_PER_PEER and total < SUBSCRIBERS and not is_all:
            told = Bitmap(shown.count, bytes(shown))
            mine[payload] = replace(before, told=told) if before else _Subscription(told, now)
        return shown

    def is_busy(self, now: float) -> bool:
        """Whether anything may become due by itself; with nothing seeded and nobody just told,
        only another leaf makes something due."""
        told = (each for mine in self._subscriptions.values() for each in mine.values())
        return bool(self._seedings) or not all(each.may_be_told(now) for each in told)

    def due(self, among: int, now: float) -> list[Announcement]:
        """What to tell whom now; each is then on its way until `arrived`."""
        self._advance(now)
        found = []
        for peer, mine in self._subscriptions.items():
            for payload, subscription in mine.items():
                if not subscription.may_be_told(now):
                    continue
                if indexes := self._news(peer, payload, subscription, among, now):
                    subscription.is_being_told(now)
                    found.append(Announcement(peer, payload, indexes))
        return found

    def _advance(self, now: float) -> None:
        for payload, seeding in list(self._seedings.items()):
            seeding.lapse(now)
            if seeding.is_over:
                del self._seedings[payload]

    def _news(
        self, peer: bytes, payload: Payload, told: _Subscription, among: int, now: float
    ) -> tuple[int, ...]:
        if payload in self._seedings:
            shown = self._seedings[payload].visible(peer, among, now)
        elif (have := self._have(payload)) is not None:
            shown = have
        else:
            return ()
        if told.told.count != shown.count:
            told.told = Bitmap(shown.count)
        return tuple(_more(shown, told.told))

    def arrived(
        self, announcement: Announcement, has: tuple[int, ...], is_wanted: bool, now: float
    ) -> None:
        """The peer was told; it has some of these already. If it wants no more, or was not
        reached, its subscription ends."""
        peer, payload, indexes = announcement
        for index in has:
            self.served(peer, payload, index, now)
        mine = self._subscriptions.get(peer, {})
        subscription = mine.get(payload)
        if subscription is None:
            return
        subscription.is_on_its_way = False
        for index in indexes:
            subscription.told.add(index)
        if not is_wanted or subscription.told.is_full:
            del mine[payload]

    def served(self, peer: bytes, payload: Payload, index: int, now: float) -> None:
        """A leaf was sent to a peer."""
        if seeding := self._seedings.get(payload):
            seeding.served(peer, index, now)

    def left(self, peer: bytes) -> None:
        """A peer has disconnected."""
        self._subscriptions.pop(peer, None)
        for seeding in self._seedings.values():
            seeding.left(peer)

    def forget(self, payload: Payload) -> None:
        """A payload was deleted."""
        self._seedings.pop(payload, None)
        for mine in self._subscriptions.values():
            mine.pop(payload, None)


def _more(shown: Bitmap, told: Bitmap) -> Iterator[int]:
    """At most ANNOUNCED_LEAVES that are shown and were not told."""
    left = ANNOUNCED_LEAVES
    for start in range(0, (shown.count + 7) // 8, _WINDOW_BYTES):
        window = shown.window(start, _WINDOW_BYTES) & ~told.window(start, _WINDOW_BYTES)
        for bit in bits_of(window):
            if not left:
                return
            left -= 1
            yield 8 * start + bit
