"""Invariants of the fold over random histories (scenarios 41 and 42).

A history is a list of acts of a small swarm, among them dishonest ones; cuts fall anywhere.
"""

from __future__ import annotations

import random
from functools import lru_cache

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from primed.verify.ledger import State, fold, genesis
from primed.verify.ledger import facts as ledger_facts
from primed.verify.ledger.book import Book
from primed.verify.runspec import Prices, Run
from primed.verify.statements import Admitted, Committed, Entry, Granted, Rejected, Skipped

from .ledger_swarm import Swarm, key, run_of

BUDGET = 1500
ACTS = ["accept", "accept", "fraud", "contest", "claim", "nothing", "error", "refuse", "stale"]
ODD_ACTS = ["reuse", "skip", "gap", "publish", "grant", "admit", "cut", "cut"]
histories = st.lists(
    st.tuples(st.sampled_from(ACTS + ODD_ACTS), st.sampled_from("wx")), min_size=4, max_size=24
)
VOTES = {
    "accept": ("ok", "ok"),
    "fraud": ("proof", "sampling"),
    "contest": ("ok", "proof"),
    "error": ("unavailable", "unavailable"),
}


@lru_cache(maxsize=1)
def run() -> Run:
    return run_of(prices=Prices(budget=BUDGET, token=1, verdict=3, version=20), vest_batches=1)


def play(history: list[tuple[str, str]]) -> tuple[list[list[Entry]], list[State]]:
    """Entries between cuts, and the state after each cut; two empty cuts at the end."""
    swarm, state = Swarm(run()), genesis(run())
    counters, step, at = {"w": 0, "x": 0}, 0, 0
    commits: list[Entry] = []
    parts: list[list[Entry]] = []
    states: list[State] = []
    for act, worker in [*history, ("cut", "w"), ("cut", "w"), ("cut", "w")]:
        if act == "cut":
            parts.append(swarm.entries[at:])
            at = len(swarm.entries)
            state = fold(run(), state, parts[-1], state.number + 1)
            states.append(state)
            swarm.names(state)
        elif act == "publish":
            step += 1
            swarm.publish(step, *commits[-2:])
        elif act == "grant":
            swarm.write("o", Granted(key(worker).peer, 40))
        elif act == "admit":
            swarm.write("o", Admitted(key(worker).peer, "worker"))
        elif act == "skip":
            swarm.write(worker, Skipped(counters[worker], "x"))
            counters[worker] += 1
        else:
            counter = max(0, counters[worker] - 1) if act == "reuse" else counters[worker]
            counters[worker] = counter + (2 if act == "gap" else 1)
            batch = swarm.commit(worker, counter, tokens=100 + len(commits))
            commits.append(batch)
            if act == "claim":  # and the verifiers die
                swarm.claim("v0", batch)
                swarm.claim("v1", batch)
            elif act != "nothing":
                swarm.check(batch, *VOTES.get(act, ("ok", "ok")))
            if act in ("refuse", "stale"):
                swarm.write("l", Rejected(batch.digest, "reward" if act == "refuse" else "stale"))
    return parts, states


def circulating(state: State) -> int:
    return sum(sum(msgspec.structs.astuple(account)) for account in state.accounts.values())


@settings(max_examples=40, deadline=None)
@given(histories)
def test_credits_are_conserved(history: list[tuple[str, str]]) -> None:
    _, states = play(history)
    for state in states:
        assert state.remaining_micro >= 0
        assert state.remaining_micro + circulating(state) == BUDGET
        for account in state.accounts.values():
            assert min(msgspec.structs.astuple(account)) >= 0
    pending: dict[bytes, int] = {}
    last = states[-1]
    for batch in last.batches.values():
        if batch.state == "payable":
            pending[batch.worker] = pending.get(batch.worker, 0) + batch.credits_micro
    for peer, lots in last.lots.items():
        pending[peer] = pending.get(peer, 0) + sum(lot.micro for lot in lots)
    for peer, account in last.accounts.items():
        assert account.pending_micro == pending.get(peer, 0)


@settings(max_examples=25, deadline=None)
@given(histories, st.integers(0, 2**32))
def test_order_and_repetition_of_events_do_not_matter(
    history: list[tuple[str, str]], seed: int
) -> None:
    chance = random.Random(seed)
    parts, states = play(history)
    state, told = genesis(run()), list[Entry]()
    for part, expected in zip(parts, states, strict=True):
        told += part
        heard = told + chance.sample(told, len(told) // 2)  # replays of everything so far
        chance.shuffle(heard)
        state = fold(run(), state, heard, state.number + 1)
        assert state == expected


@settings(max_examples=25, deadline=None)
@given(histories, st.integers(0, 2**32))
def test_facts_do_not_depend_on_the_order_of_authors(
    history: list[tuple[str, str]], seed: int
) -> None:
    chance = random.Random(seed)
    parts, states = play(history)
    for before, part in zip([genesis(run()), *states], parts, strict=False):
        roots = set()
        for _ in range(3):
            authors = sorted({entry.author for entry in part})
            chance.shuffle(authors)
            book = Book(run(), before)
            ordered = sorted(part, key=lambda entry: (authors.index(entry.author), entry.seq))
            ledger_facts.join(book, ordered)
            roots.add(book.seal().root)
        assert len(roots) == 1


@settings(max_examples=25, deadline=None)
@given(histories, st.integers(0, 2**32))
def test_no_split_over_cuts_pays_twice(history: list[tuple[str, str]], seed: int) -> None:
    """Scenario 42: authors' events enter cuts at different times; each batch is paid once at most."""
    chance = random.Random(seed)
    parts, _ = play(history)
    left = [entry for part in parts for entry in part]
    stated = {e.digest: e.body.tokens for e in left if isinstance(e.body, Committed)}
    state, earned = genesis(run()), dict[bytes, int]()
    while left:
        slow = {author for author in {e.author for e in left} if chance.random() < 0.5}
        now = [entry for entry in left if entry.author not in slow]
        left = [entry for entry in left if entry.author in slow]
        state = fold(run(), state, now, state.number + 1)
        for row in state.settled:
            assert row.commitment not in earned
            earned[row.commitment] = row.credits_micro
    for commitment, micro in earned.items():
        assert micro <= stated[commitment]
    assert state.remaining_micro + circulating(state) == BUDGET


@settings(max_examples=25, deadline=None)
@given(histories)
def test_who_cheats_twice_and_was_never_accepted_has_nothing(
    history: list[tuple[str, str]],
) -> None:
    cheats = [("fraud" if worker == "x" else act, worker) for act, worker in history]
    cheats = [act for act in cheats if act[0] not in ("grant", "admit")]
    _, states = play([*cheats, ("fraud", "x"), ("fraud", "x")])
    last = states[-1]
    assert last.workers[key("x").peer].excluded
    account = last.accounts.get(key("x").peer)
    assert account is None or account.final_micro + account.pending_micro == 0
