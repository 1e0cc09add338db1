"""The store: what is kept, what is done once (scenario 42), and that it opens again."""

from __future__ import annotations

import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from primed.node.store import Store
from primed.node.store.batches import BatchRow
from primed.node.store.ledger import CutRow
from primed.node.store.schema import MIGRATIONS
from primed.p2p.errors import LocalError, UserError
from primed.p2p.identity import Identity
from primed.protocols.events.messages import (
    Equivocation,
    Event,
    SignedEvent,
    Stored,
    event_digest,
)
from primed.verify.runspec import SignedRun
from primed.verify.signing import message_to_sign
from primed.verify.statements import Head, Skipped

RUN, OTHER = b"r" * 32, b"o" * 32


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "primed.db")
    yield store
    store.close()


def stored(author: Identity, seq: int, prev: bytes, reason: str = "", run: bytes = RUN) -> Stored:
    event = Event(run, author.peer, seq, prev, 1, Skipped(seq, reason))
    body = msgspec.msgpack.encode(event)
    signed = SignedEvent(body, author.sign(message_to_sign("event", body)))
    return Stored(signed, event, event_digest(body))


def chain(author: Identity, length: int) -> list[Stored]:
    events: list[Stored] = []
    for seq in range(length):
        events.append(stored(author, seq, events[-1].digest if events else RUN))
    return events


def test_events_come_back_as_they_were(store: Store) -> None:
    author = Identity.generate()
    events = chain(author, 5)
    store.events.append(RUN, events[:2])
    store.events.append(RUN, events[2:])
    assert store.events.get(RUN, author.peer, 1, 3) == [item.signed for item in events[1:4]]
    assert store.events.get(RUN, author.peer, 4, 10) == [events[4].signed]
    assert store.events.get(OTHER, author.peer, 0, 10) == []
    head = Head(author.peer, 4, events[4].digest)
    assert store.events.head(RUN, author.peer) == head
    assert store.events.heads(RUN) == [head]
    assert store.events.head(RUN, b"x" * 38) is None
    assert store.events.count(RUN) == 5


def test_an_event_is_appended_once(store: Store) -> None:
    """Scenario 42: redoing what was done before a crash changes nothing."""
    author = Identity.generate()
    events = chain(author, 3)
    store.events.append(RUN, events[:2])
    store.events.append(RUN, events)
    store.events.append(RUN, events)
    assert store.events.count(RUN) == 3
    assert len(store.events.get(RUN, author.peer, 0, 99)) == 3


def test_gaps_forks_and_foreign_events_are_refused_whole(store: Store) -> None:
    author = Identity.generate()
    events = chain(author, 4)
    fork = stored(author, 1, events[0].digest, "fork")
    store.events.append(RUN, events[:1])
    for bad in (
        [events[1], events[3]],
        [events[1], fork],
        [events[1], stored(author, 2, bytes(32))],
        [events[1], stored(author, 2, events[1].digest, run=OTHER)],
    ):
        with pytest.raises(LocalError):
            store.events.append(RUN, bad)
        assert store.events.count(RUN) == 1


def test_the_newest_proof_against_an_author_is_kept(store: Store) -> None:
    author, other = Identity.generate(), Identity.generate()
    proofs = [
        Equivocation(stored(who, 0, RUN, "a").signed, stored(who, 0, RUN, text).signed)
        for who, text in ((author, "b"), (author, "c"), (other, "b"))
    ]
    for proof, who in zip(proofs, (author, author, other), strict=True):
        store.events.add_proof(RUN, who.peer, proof)
    kept = store.events.proofs(RUN)
    assert len(kept) == 2 and proofs[1] in kept and proofs[2] in kept


def test_runs_are_known_then_joined(store: Store) -> None:
    signed = SignedRun(b"spec", bytes(64))
    assert not store.runs.join(RUN, ("worker",), 1)
    assert store.runs.add(RUN, signed, 10)
    assert not store.runs.add(RUN, signed, 11)
    row = store.runs.get(RUN)
    assert row is not None and row.joined_unix_ms is None and row.roles == ()
    assert store.runs.join(RUN, ("worker", "verifier"), 12)
    assert store.runs.join(RUN, ("auto",), 13)
    row = store.runs.get(RUN)
    assert row is not None and (row.joined_unix_ms, row.roles, row.signed) == (
        12,
        ("auto",),
        signed,
    )
    store.runs.add(OTHER, signed, 5)
    assert [row.run for row in store.runs.all()] == [OTHER, RUN]


def test_batches_are_told_newest_first(store: Store) -> None:
    for counter in range(3):
        store.batches.put(RUN, BatchRow(counter, "generating", b"v"))
    store.batches.put(RUN, BatchRow(1, "stored", b"v", b"note"))
    assert store.batches.get(RUN, 1) == BatchRow(1, "stored", b"v", b"note")
    assert [row.counter for row in store.batches.newest(RUN, 2)] == [2, 1]
    assert store.batches.newest(OTHER, 2) == []


def test_the_first_choice_of_a_step_counts(store: Store) -> None:
    """Scenario 42: a learner killed between choice and publication makes the same step."""
    one, two, three = (bytes([n]) * 32 for n in (1, 2, 3))
    assert store.journal.batches(RUN, 7) is None
    assert store.journal.choose(RUN, 7, [two, one]) == [two, one]
    assert store.journal.choose(RUN, 7, [three]) == [two, one]
    assert store.journal.finish(RUN, 7)
    assert not store.journal.finish(RUN, 7)
    assert not store.journal.drop(RUN, 7)
    store.journal.choose(RUN, 8, [one])
    assert store.journal.drop(RUN, 8)
    assert store.journal.batches(RUN, 8) is None
    assert store.journal.batches(RUN, 7) == [two, one]


def test_cuts_stay_as_they_were_first_seen(store: Store) -> None:
    rows = [CutRow(number, bytes([number]) * 32, b"e", b"state") for number in range(3)]
    for row in rows:
        assert store.cuts.put(RUN, row)
    assert not store.cuts.put(RUN, CutRow(2, b"other", b"e", b"s"))
    assert store.cuts.newest(RUN) == rows[2]
    assert store.cuts.get(RUN, 1) == rows[1]
    store.cuts.forget_states_before(RUN, 2)
    old = store.cuts.get(RUN, 1)
    assert old is not None and (old.root, old.state) == (rows[1].root, b"")
    assert store.cuts.newest(RUN) == rows[2]


def test_the_first_to_say_something_owns_it(store: Store) -> None:
    prints = [n.to_bytes(32, "big") for n in range(1200)]
    assert store.fingerprints.claim(RUN, prints, b"first") == {}
    assert store.fingerprints.claim(RUN, prints, b"first") == {}
    copied = store.fingerprints.claim(RUN, [*prints[-3:], b"new" * 10], b"second")
    assert copied == dict.fromkeys(prints[-3:], b"first")
    assert store.fingerprints.claim(OTHER, prints[:2], b"second") == {}


def test_evidence_is_kept_once(store: Store) -> None:
    assert store.evidence.put(RUN, b"d", b"c", b"body")
    assert not store.evidence.put(RUN, b"d", b"c", b"other")
    assert store.evidence.about(RUN, b"c") == [b"body"]
    assert store.evidence.about(RUN, b"absent") == []


def test_a_transaction_is_all_or_nothing(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.transaction():
        store.batches.put(RUN, BatchRow(0, "generating", b"v"))
        store.evidence.put(RUN, b"d", b"c", b"body")
        raise ZeroDivisionError
    assert store.batches.get(RUN, 0) is None and store.evidence.about(RUN, b"c") == []
    with store.transaction():
        store.evidence.put(RUN, b"d", b"c", b"body")
        with store.transaction():
            store.batches.put(RUN, BatchRow(0, "generating", b"v"))
    assert store.batches.get(RUN, 0) is not None


def test_many_threads_are_one_writer(store: Store) -> None:
    winners: list[int] = []

    def race(number: int) -> None:
        for name in range(20):
            if store.evidence.put(RUN, bytes([name]), b"c", bytes([number])):
                winners.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 20


def test_it_opens_again_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "primed.db"
    for value in (b"1", b"2"):
        store = Store(path)
        store.batches.put(RUN, BatchRow(0, "stored", value))
        store.close()
    store = Store(path)
    assert store.batches.newest(RUN, 9) == [BatchRow(0, "stored", b"2")]
    store.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_store_that_cannot_be_used_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "broken.db").write_bytes(b"not a database" * 100)
    with pytest.raises(UserError, match="cannot be opened") as caught:
        Store(tmp_path / "broken.db")
    assert "move it aside" in caught.value.hint
    connection = sqlite3.connect(tmp_path / "newer.db")
    connection.execute(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(UserError, match="newer primed"):
        Store(tmp_path / "newer.db")
    with pytest.raises(UserError):
        Store(tmp_path / "absent" / "primed.db")
