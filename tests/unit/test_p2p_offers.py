"""Offers: who is asked for a message that does not come by itself, and when."""

from __future__ import annotations

from libp2p.peer.id import ID

from primed.p2p import limits
from primed.p2p.offers import Offers

ONE, TWO = ID(b"one"), ID(b"two")
LATER = limits.IHAVE_PATIENCE_S + 0.1


def nothing_is_here(message_id: bytes) -> bool:
    return False


def test_a_message_that_was_offered_once_is_asked_for_once() -> None:
    offers = Offers()
    offers.note(b"m", ONE, 0.0)
    assert offers.due(nothing_is_here, 1.0) == {}  # it may come by itself
    assert offers.due(nothing_is_here, LATER) == {ONE: [b"m"]}
    offers.note(b"m", ONE, LATER)
    assert offers.due(nothing_is_here, LATER + 1) == {}
    assert offers.due(nothing_is_here, LATER + limits.IWANT_AGAIN_S) == {}
    assert len(offers) == 0  # nobody is left to ask: forgotten, until somebody offers it again


def test_who_gives_nothing_holds_up_nothing() -> None:
    offers = Offers()
    offers.note(b"m", ONE, 0.0)
    offers.note(b"m", TWO, 0.5)
    assert offers.due(nothing_is_here, LATER) == {ONE: [b"m"]}
    assert offers.due(nothing_is_here, LATER + limits.IWANT_AGAIN_S) == {TWO: [b"m"]}
    assert offers.arrived(b"m") == {ONE, TWO}


def test_what_came_meanwhile_is_not_asked_for() -> None:
    offers = Offers()
    offers.note(b"m", ONE, 0.0)
    assert offers.due(lambda message_id: message_id == b"m", LATER) == {}
    assert len(offers) == 0


def test_offers_are_bounded_and_one_peer_cannot_push_out_anothers() -> None:
    offers = Offers()
    offers.note(b"honest", ONE, 0.0)
    for number in range(limits.GOSSIP_OFFERS + 10):
        offers.note(number.to_bytes(4, "big"), TWO, 0.0)
    assert len(offers) == 1 + limits.GOSSIP_OFFERS_FIRST
    assert offers.due(nothing_is_here, LATER)[ONE] == [b"honest"]
    for number in range(limits.GOSSIP_OFFERS + 10):
        by = ID((number // limits.GOSSIP_OFFERS_FIRST).to_bytes(2, "big"))
        offers.note(b"more" + number.to_bytes(4, "big"), by, LATER)
    assert len(offers) == limits.GOSSIP_OFFERS


def test_only_so_many_are_asked_for_one_message() -> None:
    offers, now = Offers(), LATER
    for number in range(20):
        offers.note(b"m", ID(bytes([number])), 0.0)
    asked = 0
    while asks := offers.due(nothing_is_here, now):
        asked += len(asks)
        now += limits.IWANT_AGAIN_S
    assert asked == limits.GOSSIP_OFFERS_EACH


def test_what_ended_makes_room_for_the_peer_s_next_offers() -> None:
    offers = Offers()
    for number in range(limits.GOSSIP_OFFERS_FIRST):
        offers.note(number.to_bytes(4, "big"), ONE, 0.0)
    offers.arrived((7).to_bytes(4, "big"))
    offers.note(b"next", ONE, 0.0)
    assert b"next" in offers.due(nothing_is_here, LATER)[ONE]
