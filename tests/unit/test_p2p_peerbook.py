"""The peer book: whom to dial next, what hostile addresses can do to it, and its file."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from primed.p2p import limits, peerid
from primed.p2p.bookfile import BookFile, Rows
from primed.p2p.errors import FATAL, MID
from primed.p2p.peerbook import FROM_DHT, PeerBook, PeerRow
from primed.p2p.penalties import ScoreRow, Scores

from .small_disk import run_on_small_disk


def peer_number(number: int) -> bytes:
    return peerid.of_public_key(number.to_bytes(32, "big"))


OWN, A, B, C, D = (peer_number(2**32 + i) for i in range(5))


def test_bootstrap_peers_back_off_2_to_30_seconds_and_are_never_forgotten() -> None:
    book = PeerBook(OWN)
    book.add_bootstrap(A, "/ip4/1.2.3.4/tcp/5")
    now, waits = 0.0, []
    for _ in range(12):
        assert book.due((), now) == [A]
        book.failed(A, now, "refused")
        waits.append(book.hopes()[A].retry_at_s - now)
        assert book.due((), now + waits[-1] - 0.1) == []
        now += waits[-1]
    assert waits[:5] == [2, 4, 8, 16, 30]
    assert waits[-1] == 30
    book.connected(A)
    assert book.due((), now) == [A]


def fail(book: PeerBook, peer: bytes, times: int) -> list[float]:
    """Dials without an answer, each as soon as it is due; the pauses after them."""
    now, pauses = 0.0, []
    for _ in range(times):
        assert peer in book.due((), now)
        book.failed(peer, now, "no answer")
        pauses.append(book.hopes()[peer].retry_at_s - now if peer in book.hopes() else 0.0)
        now += pauses[-1]
    return pauses


def test_an_old_neighbour_that_is_silent_is_dialled_ever_more_rarely_and_stays_our_hope() -> None:
    """Nobody else answered since: the fault may be ours."""
    book = PeerBook(OWN)
    for peer, last_ok_unix_s in ((A, 1e9), (B, 1e9 - limits.PROVEN_KEPT_S / 2)):
        book.learn(peer, ["/ip4/1.2.3.4/tcp/5"])
        book.succeeded(peer, last_ok_unix_s)
    pauses = fail(book, B, 100)
    assert pauses[:5] == [2, 4, 8, 16, 32]
    assert set(pauses[12:]) == {3600}
    assert set(book.hopes()) == {A, B}


def test_an_old_neighbour_silent_for_days_in_which_others_answered_is_forgotten() -> None:
    book = PeerBook(OWN)
    for peer, last_ok_unix_s in ((A, 1e9), (B, 1e9 + limits.PROVEN_KEPT_S)):
        book.learn(peer, ["/ip4/1.2.3.4/tcp/5"])
        book.succeeded(peer, last_ok_unix_s)
    fail(book, A, limits.PROVEN_FAILURES - 1)
    assert set(book.hopes()) == {A, B}
    book.failed(A, 1e6, "no answer")
    assert set(book.hopes()) == {B} and book.addresses_of(A) == []


def of_network(number: int) -> str:
    return f"/ip4/{20 + number % 200}.{number // 200}.0.1/tcp/1"


def old_neighbours(book: PeerBook, count: int) -> list[bytes]:
    """Of a network each; the last ones are those that answered last."""
    peers = [peer_number(number) for number in range(count)]
    for number, peer in enumerate(peers):
        book.worked(peer, of_network(number), 1000.0 + number)
        book.succeeded(peer, 1000.0 + number)
    return peers


def test_each_kind_has_a_place_in_each_batch_and_they_take_turns_after_failures() -> None:
    book = PeerBook(OWN)
    old = old_neighbours(book, 20)
    told = [peer_number(1000 + number) for number in range(20)]
    for number, peer in enumerate(told):
        book.learn(peer, [of_network(500 + number)])
    book.add_bootstrap(A, "/ip4/1.2.3.4/tcp/5")
    first = book.due((), 0.0)
    assert first[:2] == [A, old[-1]] and first[2] in told
    next_ones = []
    for now in range(1, 13):  # one place is free at a time
        next_ones.append(book.due((), now)[0])
        book.failed(next_ones[-1], now, "no answer")
    assert len(set(old) & set(next_ones)) >= 3 <= len(set(told) & set(next_ones))
    assert next_ones.count(A) >= 2


def test_a_book_full_of_old_neighbours_learns_of_others_and_the_silent_ones_make_room() -> None:
    book = PeerBook(OWN, capacity=100)
    book.add_bootstrap(A, "/ip4/1.2.3.4/tcp/5")
    old = old_neighbours(book, 99)
    book.failed(old[50], 0.0, "no answer")
    book.learn(B, [of_network(1000)])
    book.worked(C, of_network(1001), 1e9)
    assert book.addresses_of(B) and book.addresses_of(C)
    assert set(old) - set(book.hopes()) == {old[50], old[0]}
    for number in range(1000):  # claims get no more than half of it
        book.learn(peer_number(10_000 + number), [of_network(1002 + number)], FROM_DHT)
    assert set(old[51:]) <= set(book.hopes()) and A in book.hopes()


def test_hearsay_comes_last_and_is_forgotten_after_some_failures() -> None:
    book = PeerBook(OWN)
    book.learn(C, ["/ip4/9.9.9.9/tcp/9"])
    book.learn(B, ["/ip4/2.2.2.2/tcp/2"])
    book.succeeded(B, 1000.0)
    book.add_bootstrap(A, "/ip4/1.2.3.4/tcp/5")
    assert set(book.due((), 0.0)[:2]) == {A, B}
    assert book.due((), 0.0)[2] == C
    assert book.due({A, B}, 0.0) == [C]
    for _ in range(limits.HEARSAY_FAILURES):
        book.failed(C, 0.0, "no answer")
    assert book.addresses_of(C) == []
    assert set(book.hopes()) == {A, B}


def test_the_book_is_bounded_and_keeps_those_that_count() -> None:
    book = PeerBook(OWN, capacity=4)
    book.add_bootstrap(A, "/ip4/1.2.3.4/tcp/5")
    for number in range(100):
        peer = peer_number(number)
        book.learn(peer, [f"/ip4/10.0.{number}.1/tcp/{port}" for port in range(1, 50)])
        book.failed(peer, 0.0, "no answer")
        assert len(book.addresses_of(peer)) <= limits.ADDRESSES_PER_PEER
    assert len(book.due((), 1e9)) <= 4
    assert A in book.due((), 0.0)
    book.learn(OWN, ["/ip4/1.2.3.4/tcp/5"])
    book.learn(b"no peer id", ["/ip4/1.2.3.4/tcp/5"])
    assert OWN not in book.due((), 0.0)


def test_addresses_that_worked_come_first_and_those_of_this_machine_last() -> None:
    book = PeerBook(OWN)
    book.learn(A, ["/ip4/127.0.0.1/tcp/1", "/ip4/1.1.1.1/tcp/1", "/ip4/2.2.2.2/tcp/2"])
    assert book.addresses_of(A)[0] == "/ip4/1.1.1.1/tcp/1"
    book.worked(A, "/ip4/2.2.2.2/tcp/2", 10.0)
    book.worked(A, "/ip4/127.0.0.1/tcp/1", 20.0)
    assert book.addresses_of(A) == [
        "/ip4/2.2.2.2/tcp/2",
        "/ip4/1.1.1.1/tcp/1",
        "/ip4/127.0.0.1/tcp/1",
    ]
    for port in range(50):  # however many others it tells
        book.learn(A, [f"/ip4/3.3.3.{port}/tcp/3"])
    assert book.addresses_of(A)[0] == "/ip4/2.2.2.2/tcp/2"


def _poison(book: PeerBook, count: int, network: str, start: int = 0) -> set[bytes]:
    """So many peers of an attacker who owns one /16."""
    attackers = {peer_number(start + number) for number in range(count)}
    for number, peer in enumerate(sorted(attackers)):
        host = f"{network}.{number // 250 % 250}.{number % 250}"
        book.learn(peer, [f"/ip4/{host}/tcp/4001"], FROM_DHT)
    return attackers


def test_scenario_27_a_network_of_the_attacker_gets_so_many_slots_and_no_more() -> None:
    book = PeerBook(OWN, capacity=1024)
    honest = {peer_number(2**20 + number) for number in range(20)}
    attackers = _poison(book, 5000, "66.6")
    for number, peer in enumerate(honest):
        book.learn(peer, [f"/ip4/{10 + number}.0.0.1/tcp/4001"])
    known = set(book.due((), 0.0))
    assert honest <= known
    assert len(known & attackers) <= limits.HOME.known_per_network
    subnets = [
        a.split("/")[2].rsplit(".", 1)[0] for p in known & attackers for a in book.addresses_of(p)
    ]
    assert max(map(subnets.count, subnets)) <= limits.HOME.known_per_subnet


def test_scenario_27_with_some_attackers_connected_other_networks_are_dialled_first() -> None:
    book = PeerBook(OWN)
    attackers = _poison(book, 40, "66.6")
    book.learn(A, ["/ip4/10.0.0.1/tcp/1"])
    connected = sorted(attackers & set(book.due((), 0.0)))[:3]
    assert book.due(connected, 0.0)[0] == A


def test_scenario_27_only_networks_that_we_have_nobody_of() -> None:
    book = PeerBook(OWN)
    attackers = sorted(_poison(book, 20, "66.6"))
    book.learn(A, ["/ip4/10.0.0.1/tcp/1"])
    assert set(book.due(attackers[:1], 0.0, unlike=True)) == {A}
    assert book.due([attackers[0], A], 0.0, unlike=True) == []


def test_scenario_27_invented_addresses_everywhere_leave_room_for_what_peers_say_of_themselves() -> (
    None
):
    """Claims cost nothing, so they may have half of the book."""
    book = PeerBook(OWN, capacity=200)
    for number in range(2000):
        claim = f"/ip4/{number % 200 + 20}.{number // 200}.0.1/tcp/4001"
        book.learn(peer_number(number), [claim], FROM_DHT)
    assert len(book.due((), 0.0)) == 100
    book.learn(A, ["/ip4/10.0.0.1/tcp/1"])
    assert A in book.due((), 0.0)


def test_scenario_27_an_address_that_works_takes_the_slot_of_a_claim_but_not_of_another() -> None:
    profile = limits.Profile(known_per_subnet=2)
    book = PeerBook(OWN, profile=profile)
    book.learn(A, ["/ip4/10.0.0.1/tcp/1"], unix_s=1.0)
    book.learn(B, ["/ip4/10.0.0.2/tcp/1"], unix_s=2.0)
    book.learn(C, ["/ip4/10.0.0.3/tcp/1"], unix_s=3.0)
    assert book.addresses_of(C) == []
    book.worked(C, "/ip4/10.0.0.3/tcp/1", 4.0)
    assert book.addresses_of(C) and not book.addresses_of(A)
    book.worked(B, "/ip4/10.0.0.2/tcp/1", 5.0)
    book.worked(D, "/ip4/10.0.0.4/tcp/1", 6.0)
    assert book.addresses_of(B) and book.addresses_of(C) and not book.addresses_of(D)


def test_slots_are_given_back() -> None:
    book = PeerBook(OWN, profile=limits.Profile(known_per_subnet=1))
    for number in range(20):
        peer = peer_number(number)
        book.learn(peer, ["/ip4/10.0.0.1/tcp/1"])
        assert book.addresses_of(peer)
        for _ in range(limits.HEARSAY_FAILURES):
            book.failed(peer, 0.0, "no answer")


def test_bootstrap_peers_are_probed_in_turn_and_only_if_not_connected() -> None:
    book = PeerBook(OWN)
    for peer in (A, B, C):
        book.add_bootstrap(peer, "/ip4/1.2.3.4/tcp/5")
    seen = [book.to_probe({C}, now) for now in (1.0, 2.0, 3.0, 4.0)]
    assert set(seen[:2]) == {A, B} and seen[:2] == seen[2:]
    assert book.to_probe({A, B, C}, 5.0) is None


def _filled() -> tuple[PeerBook, Scores]:
    book, scores = PeerBook(OWN), Scores()
    book.learn(A, ["/ip4/1.2.3.4/tcp/5", "/ip4/127.0.0.1/tcp/5"], unix_s=1e9)
    book.worked(A, "/ip4/1.2.3.4/tcp/5", 1e9)
    book.succeeded(A, 1e9)
    book.keep_record(A, b"signed", 1e9)
    book.keep_record(A, b"a minute later", 1e9 + 60)
    book.learn(B, ["/ip4/2.2.2.2/tcp/2"], FROM_DHT, 1e9)
    scores.penalise(C, FATAL, 50.0)
    scores.penalise(D, MID, 50.0)
    return book, scores


def test_the_file_keeps_addresses_records_scores_and_bans(tmp_path: Path) -> None:
    """Scenario 28, the part that is a file."""
    path = tmp_path / "peers.db"
    book, scores = _filled()
    file = BookFile(path)
    file.load()
    file.save(Rows(*book.rows(), scores.rows(50.0, 1_000_050.0)))
    file.save(Rows(*book.rows(), scores.rows(60.0, 1_000_060.0)))
    file.close()
    assert path.stat().st_mode & 0o777 == 0o600

    again, rows = PeerBook(OWN), BookFile(path).load()
    again.add_rows(rows.peers, rows.addresses)
    assert again.rows() == book.rows()
    assert list(again.hopes()) == [A]
    assert again.records() == {A: b"signed"}
    scores = Scores()
    scores.add_rows(rows.scores, 7.0, 1_000_100.0)  # another boot, 50 seconds later
    assert scores.is_banned(C, 7.0) and scores.is_banned(C, limits.BAN_S - 100)
    assert not scores.is_banned(C, limits.BAN_S)
    assert -5.0 < scores.score(D, 7.0) < -4.0


def test_a_clock_set_back_lengthens_no_ban() -> None:
    scores = Scores()
    scores.add_rows([ScoreRow(A, -60.0, 1e9, 1e9 + limits.BAN_S)], 10.0, 1.0)
    assert scores.is_banned(A, 11.0)
    assert not scores.is_banned(A, 11.0 + limits.BAN_S)
    assert scores.score(A, 10.0) >= -60.0


def test_forgotten_peers_leave_the_file_and_a_save_that_fails_changes_nothing(
    tmp_path: Path,
) -> None:
    path = tmp_path / "peers.db"
    book, _ = _filled()
    file = BookFile(path)
    file.load()
    file.save(Rows(*book.rows()))
    for _ in range(limits.HEARSAY_FAILURES):
        book.failed(B, 0.0, "no answer")
    wrong = Rows({PeerRow("text", 1.0, b"")}, *book.rows()[1:])  # type: ignore[arg-type]
    with pytest.raises(sqlite3.Error):
        file.save(wrong)
    file.save(Rows(*book.rows()))
    file.close()
    assert {row.peer for row in BookFile(path).load().addresses} == {A}


FULL = """
import sys, time
from pathlib import Path
from primed.p2p.bookfile import BookFile, Rows
from primed.p2p.penalties import ScoreRow

disk = Path(sys.argv[1])
file = BookFile(disk / "peers.db")
file.load()
now = time.time()
file.save(Rows(scores={ScoreRow(bytes([i]) * 38, -60.0, now, now + 9e4) for i in range(50)}))
file.close()
ballast = (disk / "ballast").open("wb", buffering=0)
for size in (4096, 1):
    try:
        while True:
            ballast.write(bytes(size))
    except OSError:
        pass
print(len(BookFile(disk / "peers.db").load().scores))
(disk / "ballast").unlink()
print(len(BookFile(disk / "peers.db").load().scores))
"""


def test_scenario_12_bans_survive_a_start_on_a_full_disk(tmp_path: Path) -> None:
    assert run_on_small_disk(tmp_path / "disk", FULL, mib=4).split() == ["50", "50"]


def test_a_file_that_somebody_else_holds_is_not_taken_for_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "peers.db"
    book, _ = _filled()
    file = BookFile(path)
    file.load()
    file.save(Rows(*book.rows()))
    file.close()
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT * FROM peers").fetchall()
    assert BookFile(path).load().peers == book.rows()[0]
    reader.execute("ROLLBACK")
    reader.execute("BEGIN EXCLUSIVE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        BookFile(path).load()
    assert not (tmp_path / "peers.db.damaged").exists()


def test_a_file_others_could_read_is_closed_to_them_and_a_link_refused(tmp_path: Path) -> None:
    path = tmp_path / "peers.db"
    path.touch(0o644)
    BookFile(path).load()
    assert path.stat().st_mode & 0o777 == 0o600
    link = tmp_path / "link.db"
    link.symlink_to(path)
    with pytest.raises(OSError):
        BookFile(link).load()


def test_a_file_of_another_version_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "peers.db"
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version=99")
    database.close()
    assert BookFile(path).load() == Rows()
    assert os.path.exists(tmp_path / "peers.db.damaged")
