"""Who is told of which leaves, and that an origin gives each leaf to one peer first."""

from __future__ import annotations

import random
from collections import Counter
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from primed.protocols.limits import (
    ANNOUNCE_S,
    ANNOUNCED_AT_ONCE,
    ANNOUNCED_LEAVES,
    SEED_PATIENCE_S,
    SPREADERS,
    SUBSCRIPTIONS_PER_PEER,
)
from primed.protocols.shardcast.announcer import Announcer
from primed.protocols.shardcast.bitmap import Bitmap
from primed.protocols.shardcast.seeding import Seeding
from primed.verify.statements import Payload

LEAF_BYTES = 256 * 1024


def payload_of(leaves: int, number: int = 0) -> Payload:
    return Payload(bytes([number]) * 32, leaves * LEAF_BYTES, LEAF_BYTES)


def peer(number: int) -> bytes:
    return b"peer%03d" % number


def announcer_of(held: dict[Payload, Bitmap]) -> Announcer:
    return Announcer(held.get, random.Random(1))


def test_a_subscriber_hears_every_leaf_once_and_not_too_often() -> None:
    payload = payload_of(300)
    have = Bitmap(300)
    have.add(7)
    announcer = announcer_of({payload: have})
    assert list(announcer.subscribe(peer(1), payload, 0.0)) == [7]
    heard: list[int] = []
    messages = 0
    for tick in range(400):
        now = tick * 0.05
        if tick < 299:
            have.add(tick + (tick >= 7))
        for news in announcer.due(1, now):
            messages += 1
            heard += news.indexes
            announcer.arrived(news, (), True, now)
    assert sorted([*heard, 7]) == list(range(300))
    assert messages <= 2 + ANNOUNCED_AT_ONCE + 299 * 0.05 / ANNOUNCE_S
    assert not announcer.due(1, 60.0)


def test_asking_again_does_not_make_us_tell_more_often() -> None:
    payload = payload_of(300)
    have = Bitmap(300)
    announcer = announcer_of({payload: have})
    announcer.seed(payload)
    told = []
    for tick in range(100):
        announcer.subscribe(peer(1), payload, tick * 0.1)
        told += announcer.due(1, tick * 0.1)
    assert len(told) == 1  # it has not arrived
    for tick in range(100, 200):
        announcer.arrived(told[-1], (), True, tick * 0.1)
        announcer.subscribe(peer(1), payload, tick * 0.1)
        told += announcer.due(1, tick * 0.1)
    assert ANNOUNCED_AT_ONCE < len(told) <= 1 + ANNOUNCED_AT_ONCE + 10 / ANNOUNCE_S


def test_an_announcement_that_fails_or_is_not_wanted_ends_the_subscription() -> None:
    payload = payload_of(100_000)
    have = Bitmap.of(100_000, range(50_000))
    announcer = announcer_of({payload: have})
    announcer.subscribe(peer(1), payload_of(8, 1), 0.0)  # unknown here: nothing yet
    told = announcer.subscribe(peer(1), payload, 0.0)
    assert told.total == 50_000
    for index in range(50_000, 60_000):
        have.add(index)
    (news,) = announcer.due(1, 0.0)
    assert len(news.indexes) == ANNOUNCED_LEAVES
    assert not announcer.due(1, 99.0)  # one at a time
    announcer.arrived(news, (), False, 99.0)
    assert not announcer.due(1, 200.0)


def test_subscriptions_are_bounded_and_end_with_the_connection() -> None:
    held = {payload_of(8, number): Bitmap(8) for number in range(200)}
    announcer = announcer_of(held)
    for payload, bitmap in held.items():
        announcer.subscribe(peer(1), payload, 0.0)
        bitmap.add(1)
    assert len(announcer.due(1, 9.0)) == SUBSCRIPTIONS_PER_PEER
    announcer.left(peer(1))
    for bitmap in held.values():
        bitmap.add(2)
    assert not announcer.due(1, 99.0)


class Origin:
    """A seeding and peers that take what they are shown, rarest first, one leaf each in turn."""

    def __init__(self, leaves: int, peers: int) -> None:
        self.seeding = Seeding(leaves, random.Random(leaves))
        self.peers = [peer(number) for number in range(peers)]
        self.has: dict[bytes, set[int]] = {name: set() for name in self.peers}
        self.sent: list[int] = []
        self.copies: Counter[int] = Counter()
        self.clock = count()

    def round(self, *, lazy: int = 0) -> bool:
        """Whether anybody found something to take; the first `lazy` peers never do."""
        now, moved = next(self.clock) * 0.1, False
        self.seeding.lapse(now)
        for number, name in enumerate(self.peers):
            shown = self.seeding.visible(name, len(self.peers), now)
            fresh = [index for index in shown if index not in self.has[name]]
            if fresh and number >= lazy:
                rarest = min(fresh, key=self.copies.__getitem__)
                self.seeding.served(name, rarest, now)
                self.has[name].add(rarest)
                self.sent.append(rarest)
                self.copies[rarest] += 1
                moved = True
        return moved


@given(st.integers(1, 300), st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_nearly_every_leaf_leaves_the_origin_before_any_leaves_twice(
    leaves: int, peers: int
) -> None:
    origin = Origin(leaves, peers)
    while not origin.seeding.is_over:
        assert origin.round()
    early = origin.sent[: int(0.8 * leaves) - 2 * peers] if leaves > 3 * peers else []
    assert len(set(early)) == len(early)
    assert leaves <= len(origin.sent) <= 1.2 * leaves + 2 * peers
    shown = origin.seeding.visible(b"late", peers, 99.0)
    assert shown.is_full


def test_leaves_of_peers_that_do_not_come_or_have_gone_are_given_to_others() -> None:
    origin = Origin(240, 6)
    for _ in range(10):
        origin.round(lazy=2)
    gone = origin.peers.pop()
    origin.seeding.left(gone)
    while not origin.seeding.is_over:
        origin.round(lazy=2)
    assert next(origin.clock) * 0.1 < 240 / 3 * 0.1 + 4 * SEED_PATIENCE_S  # three take leaves
    while origin.round(lazy=2):
        pass
    assert origin.has[peer(3)] == set(range(240))


def test_only_some_peers_spread_and_the_others_see_all_in_the_end() -> None:
    origin = Origin(400, 3 * SPREADERS)
    origin.round()
    assert sum(map(bool, origin.has.values())) == SPREADERS
    while not origin.seeding.is_over:
        assert origin.round()
    assert origin.seeding.visible(origin.peers[-1], 48, 99.0).is_full


def test_leaves_that_a_peer_has_already_do_not_hold_the_seeding_up() -> None:
    payload = payload_of(64)
    announcer = announcer_of({payload: Bitmap.full(64)})
    announcer.seed(payload)
    assert not announcer.subscribe(peer(1), payload, 0.0).total
    shown: set[int] = set()
    for step in range(100):
        for news in announcer.due(4, step):
            assert not shown & set(news.indexes)
            shown |= set(news.indexes)
            assert step > 0 or len(shown) == 8  # half of a quarter
            announcer.arrived(news, news.indexes, True, step)
    assert shown == set(range(64))
