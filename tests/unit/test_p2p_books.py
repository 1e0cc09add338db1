"""The pure parts of p2p: peer ids, addresses, scores, places, the outbox."""

from __future__ import annotations

import itertools

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from primed.p2p import addresses, limits, peerid
from primed.p2p.doorkeeper import Doorkeeper
from primed.p2p.errors import FATAL, HIGH, MID, UserError
from primed.p2p.penalties import Consequence, Scores

PEERS = [peerid.of_public_key(bytes([i]) * 32) for i in range(8)]
A, B = PEERS[:2]


@settings(deadline=None)  # the machine may be busy
@given(st.binary(min_size=32, max_size=32))
def test_peer_ids_survive_their_text(key: bytes) -> None:
    peer = peerid.of_public_key(key)
    assert peerid.from_text(peerid.to_text(peer)) == peer
    assert peerid.public_key_of(peer) == key
    assert peerid.to_text(peer).startswith("12D3KooW")


@settings(deadline=None)  # the machine may be busy
@given(st.text(max_size=200))
def test_any_text_is_a_peer_id_or_a_value_error(text: str) -> None:
    try:
        assert peerid.is_peer_id(peerid.from_text(text))
    except ValueError:
        pass


@settings(deadline=None)  # the machine may be busy
@given(st.text(max_size=120) | st.from_regex(r"/ip4/[0-9.]{1,20}/tcp/[0-9]{1,6}"))
def test_any_text_is_an_address_to_dial_or_none(text: str) -> None:
    if found := addresses.dialable(text):
        assert addresses.split(found) == (found, b"")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (f"/ip4/1.2.3.4/tcp/5/p2p/{peerid.to_text(A)}", "/ip4/1.2.3.4/tcp/5"),
        ("/ip6/::1/tcp/5", "/ip6/::1/tcp/5"),
        ("/dns4/relay.example.org/tcp/443", "/dns4/relay.example.org/tcp/443"),
        ("/ip4/1.2.3.4/tcp/0", None),
        ("/ip4/0.0.0.0/tcp/5", None),
        ("/ip4/1.2.3.4/tcp/70000", None),
        ("/ip4/256.2.3.4/tcp/5", None),
        ("/ip4/::1/tcp/5", None),
        ("/ip4/224.0.0.1/tcp/5", None),
        ("/ip4/1.2.3.4/udp/5/quic-v1", None),
        ("/ip4/1.2.3.4/tcp/5/ws", None),
    ],
)
def test_only_tcp_addresses_are_dialled(address: str, expected: str | None) -> None:
    assert addresses.dialable(address) == expected


def test_addresses_of_users_must_name_the_peer() -> None:
    with pytest.raises(UserError, match="p2p"):
        addresses.with_peer("/ip4/1.2.3.4/tcp/5")


def test_scores_fall_by_points_and_halve_in_ten_minutes() -> None:
    scores = Scores()
    assert scores.penalise(A, HIGH, 0.0) is Consequence.NONE
    assert scores.score(A, 600.0) == pytest.approx(-5.0)
    assert scores.score(B, 600.0) == 0.0
    assert [scores.penalise(A, MID, 600.0) for _ in range(3)][-1] is Consequence.DISCONNECT


def test_one_fatal_penalty_bans_for_twelve_hours() -> None:
    scores = Scores()
    assert scores.penalise(A, FATAL, 0.0) is Consequence.BAN
    assert scores.is_banned(A, limits.BAN_S - 1)
    assert not scores.is_banned(A, limits.BAN_S)
    assert not scores.is_banned(B, 0.0)


def test_the_score_table_is_bounded_and_keeps_bans() -> None:
    scores = Scores(capacity=64)
    scores.penalise(A, FATAL, 0.0)
    for number in range(1000):
        scores.penalise(b"%d" % number, 1 + number % 7, float(number % 10))
    assert scores.is_banned(A, 1.0)
    assert len(scores._entries) <= 64


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.tuples(st.integers(0, 60), st.floats(0, 1e6)), max_size=30))
def test_a_score_is_never_positive_and_never_nan(penalties: list[tuple[int, float]]) -> None:
    scores, now = Scores(), 0.0
    for points, elapsed in penalties:
        now += elapsed
        scores.penalise(A, points, now)
        assert -(60.0 * 30) <= scores.score(A, now) <= 0.0


def test_places_are_counted_per_ip_subnet_and_in_total() -> None:
    door = Doorkeeper(limits.Profile(connections=10, inbound_per_ip=2, inbound_per_subnet=3))
    places = [door.enter("10.0.0.1") for _ in range(3)]
    assert places[0] and places[1] and places[2] is None
    assert [bool(door.enter("10.0.0.2")) for _ in range(2)] == [True, False]
    assert [bool(door.enter(f"10.0.{n}.1")) for n in range(1, 9)] == [True] * 7 + [False]
    door.leave(places[0])
    door.leave(places[0])
    assert door.enter("10.0.0.3")
    assert not door.enter("10.0.0.4")


def test_a_crowded_network_gives_its_youngest_place_to_another_one() -> None:
    door = Doorkeeper(limits.Profile(connections=8, inbound_per_ip=2, inbound_per_subnet=8))
    crowd = [door.enter(f"66.6.0.{n}") for n in range(6)]
    for ip in ("1.1.1.1", "2.2.2.2"):
        assert door.who_should_go(ip, 0.0) is None  # there is room
        assert door.enter(ip)
    assert door.enter("3.3.3.3") is None
    assert door.who_should_go("66.6.0.99", 0.0) is None  # it is that network
    leaving = door.who_should_go("3.3.3.3", 0.0)
    assert leaving is not None and leaving == crowd[-1]
    door.leave(leaving)
    assert door.enter("3.3.3.3")
    assert door.who_should_go("1.1.1.1", 0.0) is not None


def test_without_a_crowd_the_last_place_changes_hands_now_and_then() -> None:
    """Or a newcomer who knows only a full bootstrap peer would never get to know anybody."""
    door = Doorkeeper(limits.Profile(connections=4))
    first = [door.enter(f"{n + 1}.1.1.1", 0.0) for n in range(4)]
    assert door.who_should_go("9.9.9.9", limits.GUEST_S - 1) is None
    leaving = door.who_should_go("9.9.9.9", limits.GUEST_S)
    assert leaving is not None and leaving == first[-1]
    door.leave(leaving)
    assert door.enter("9.9.9.9", limits.GUEST_S)
    assert door.who_should_go("8.8.8.8", 2 * limits.GUEST_S - 1) is None


def test_an_outbox_is_bounded_in_bytes_and_sends_control_first() -> None:
    from primed.p2p.outbox import Letter, Outbox

    async def main() -> None:
        box = Outbox()
        assert box.put(Letter(b"first"))
        assert box.put(Letter(b"control"), urgent=True)
        assert [(await take(box)).encoded for _ in range(2)] == [b"control", b"first"]
        shard = Letter(b"x" * 256 * 1024)
        held = sum(1 for _ in itertools.takewhile(box.put, itertools.repeat(shard, 1000)))
        assert 128 <= held <= limits.GOSSIP_QUEUE_BYTES // (256 * 1024)
        box.close()
        assert await box.take() is None
        assert not box.put(shard)

    async def take(box: Outbox) -> Letter:
        letter = await box.take()
        assert letter is not None
        return letter

    trio.run(main)
