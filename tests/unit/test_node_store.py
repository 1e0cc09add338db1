"""The store: what is kept, what is done once (scenario 42), and that it opens again."""

from __future__ import annotations

import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import trio

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


def test_the_first_proof_against_an_author_is_kept(store: Store) -> None:
    author, other = Identity.generate(), Identity.generate()
    proofs = [
        Equivocation(stored(who, 0, RUN, "a").signed, stored(who, 0, RUN, text).signed)
        for who, text in ((author, "b"), (author, "c"), (other, "b"))
    ]
    for proof, who in zip(proofs, (author, author, other), strict=True):
        store.events.add_proof(RUN, who.peer, proof)
    kept = store.events.proofs(RUN)
    assert len(kept) == 2 and proofs[0] in kept and proofs[2] in kept


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
    store.runs.leave(RUN)
    row = store.runs.get(RUN)
    assert row is not None and row.joined_unix_ms is None


def test_a_batch_is_begun_once_and_moved_once(store: Store) -> None:
    first = BatchRow(0, "generating", b"v")
    assert store.batches.next_counter(RUN) == 0
    assert store.batches.begin(RUN, first)
    assert not store.batches.begin(RUN, BatchRow(0, "generating", b"w"))
    assert store.batches.get(RUN, 0) == first
    done = BatchRow(0, "stored", b"v", "/p", b"d", b"r", b"receipts")
    assert store.batches.move(RUN, done, before="generating")
    assert not store.batches.move(RUN, done, before="generating")
    assert store.batches.get(RUN, 0) == done
    store.batches.put(RUN, BatchRow(1, "generating", b"v"))
    assert store.batches.next_counter(RUN) == 2
    assert [row.counter for row in store.batches.newest(RUN, 9)] == [1, 0]
    assert [row.counter for row in store.batches.in_state(RUN, "stored", "committed")] == [0]
    assert store.batches.states(RUN) == {"stored": 1, "generating": 1}
    assert store.batches.next_counter(OTHER) == 0


def test_the_first_choice_of_a_step_counts(store: Store) -> None:
    """Scenario 42: a learner killed between choice and publication makes the same step."""
    one, two, three = (bytes([n]) * 32 for n in (1, 2, 3))
    assert store.journal.batches(RUN, 7) is None
    assert store.journal.choose(RUN, 7, [two, one]) == [two, one]
    assert store.journal.choose(RUN, 7, [three]) == [two, one]
    assert store.journal.unfinished(RUN) == [7]
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
    assert store.cuts.roots(RUN, 1) == [(1, rows[1].root), (2, rows[2].root)]


def test_the_first_to_say_something_owns_it(store: Store) -> None:
    prints = [n.to_bytes(32, "big") for n in range(1200)]
    assert store.fingerprints.claim(RUN, prints, b"first") == {}
    assert store.fingerprints.claim(RUN, prints, b"first") == {}
    copied = store.fingerprints.claim(RUN, [*prints[-3:], b"new" * 10], b"second")
    assert copied == dict.fromkeys(prints[-3:], b"first")
    store.fingerprints.forget(RUN, b"first")
    assert store.fingerprints.claim(RUN, prints[:2], b"second") == {}


def test_a_task_is_claimed_and_finished_once(store: Store) -> None:
    assert store.tasks.claim(RUN, "verdict", b"c1", b"detail")
    assert not store.tasks.claim(RUN, "verdict", b"c1")
    assert store.tasks.claim(RUN, "other", b"c1")
    assert [row.detail for row in store.tasks.unfinished(RUN, "verdict")] == [b"detail"]
    assert store.tasks.finish(RUN, "verdict", b"c1", b"accept")
    assert not store.tasks.finish(RUN, "verdict", b"c1", b"reject")
    row = store.tasks.get(RUN, "verdict", b"c1")
    assert row is not None and (row.is_done, row.result) == (True, b"accept")
    assert store.tasks.unfinished(RUN, "verdict") == []


def test_evidence_and_facts(store: Store) -> None:
    assert store.evidence.put(RUN, b"d", b"c", b"body")
    assert not store.evidence.put(RUN, b"d", b"c", b"other")
    assert store.evidence.get(RUN, b"d") == b"body"
    assert store.evidence.about(RUN, b"c") == [(b"d", b"body")]
    store.facts.put("name", b"1")
    store.facts.put("name", b"2")
    assert (store.facts.get("name"), store.facts.get("absent")) == (b"2", None)


def test_a_transaction_is_all_or_nothing(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.transaction():
        store.facts.put("a", b"1")
        store.tasks.claim(RUN, "kind", b"name")
        raise ZeroDivisionError
    assert store.facts.get("a") is None
    with store.transaction():
        store.facts.put("a", b"1")
        with store.transaction():
            store.facts.put("b", b"2")
    assert store.facts.get("b") == b"2"


def test_many_threads_are_one_writer(store: Store) -> None:
    winners: list[int] = []

    def race(number: int) -> None:
        for name in range(20):
            if store.tasks.claim(RUN, "race", bytes([name])):
                winners.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 20


@pytest.mark.trio
async def test_calls_from_the_loop_run_in_threads(store: Store) -> None:
    async def add(number: int) -> None:
        await store.call(store.facts.put, f"fact {number}", b"x")

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(add, number)
    assert await store.call(store.facts.get, "fact 19") == b"x"


def test_it_opens_again_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "primed.db"
    for value in (b"1", b"2"):
        store = Store(path)
        store.facts.put("name", value)
        store.close()
    store = Store(path)
    assert store.facts.get("name") == b"2"
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
