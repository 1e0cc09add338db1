"""Cuts: proposal, checking, missing events, equivocation (scenarios 41 and 42)."""

from __future__ import annotations

import msgspec
import pytest

from primed.verify.ledger import (
    BadCut,
    MissingEvents,
    State,
    balances,
    check_cut,
    forks,
    genesis,
    propose_cut,
    without_forks,
)
from primed.verify.runspec import Run
from primed.verify.statements import Cut, Entry, Skipped

from .ledger_swarm import Swarm, key, run_of


def proposed(run: Run, state: State, swarm: Swarm) -> tuple[Entry, State]:
    found = propose_cut(run, state, swarm.entries)
    assert found is not None
    cut, folded = found
    swarm.names(folded)
    return swarm.write("o", cut), folded


def test_everybody_computes_the_proposers_state() -> None:
    run = run_of()
    swarm, state = Swarm(run), genesis(run)
    for counter in range(4):
        swarm.check(swarm.commit("w", counter), "ok", "ok")
        cut, folded = proposed(run, state, swarm)
        checked = check_cut(run, state, cut, reversed(swarm.entries))
        assert checked == folded
        state = checked
    assert state.number == 4
    assert balances(state)[key("w").peer].final_micro == 200


def test_no_cut_when_only_cuts_are_new() -> None:
    run = run_of()
    swarm, state = Swarm(run), genesis(run)
    assert propose_cut(run, state, []) is None
    swarm.write("w", Skipped(0, "x"))
    _, state = proposed(run, state, swarm)
    assert propose_cut(run, state, swarm.entries) is None


@pytest.mark.parametrize(
    "change",
    [
        {"number": 3},
        {"previous": bytes(32)},
        {"state_root": bytes(32)},
        {"heads": "reversed"},
        {"heads": "twice"},
        {"heads": "behind"},
        {"author": "w"},
    ],
)
def test_wrong_cuts_are_refused(change: dict[str, object]) -> None:
    """Scenario 41: gap, fork and reorder in the chain of cuts."""
    run = run_of()
    swarm, state = Swarm(run), genesis(run)
    swarm.commit("w", 0)
    _, state = proposed(run, state, swarm)
    swarm.check(swarm.commit("w", 1), "ok", "ok")
    found = propose_cut(run, state, swarm.entries)
    assert found is not None
    body, author = found[0], key(str(change.pop("author", "o"))).peer
    heads = {
        "reversed": body.heads[::-1],
        "twice": (*body.heads, body.heads[-1]),
        "behind": tuple(sorted([*body.heads[1:], *state.heads.values()], key=lambda h: h.author)),
    }
    if "heads" in change:
        change["heads"] = heads[str(change["heads"])]
    body = msgspec.structs.replace(body, **change)
    with pytest.raises(BadCut):
        check_cut(run, state, Entry(author, 99, bytes(32), body), swarm.entries)


def test_missing_events_are_named() -> None:
    run = run_of()
    swarm, state = Swarm(run), genesis(run)
    swarm.check(swarm.commit("w", 0), "ok", "ok")
    cut, _ = proposed(run, state, swarm)
    v0 = key("v0").peer
    have = [entry for entry in swarm.entries if entry.author != v0 or entry.seq == 0]
    with pytest.raises(MissingEvents) as missing:
        check_cut(run, state, cut, have)
    assert missing.value.gaps == [(v0, 1, 1)]
    assert check_cut(run, state, cut, swarm.entries).number == 1


def test_events_not_in_the_cut_wait_for_the_next() -> None:
    run = run_of()
    swarm, state = Swarm(run), genesis(run)
    first = swarm.commit("w", 0)
    cut, _ = proposed(run, state, swarm)
    swarm.check(first, "ok", "ok")
    swarm.commit("w", 1)
    state = check_cut(run, state, cut, swarm.entries)
    assert len(state.batches) == 1
    assert not state.batches[first.digest].claims


def test_equivocation_voids_from_there_on() -> None:
    """Scenarios 30 and 41: neither branch counts, what came before does."""
    run = run_of()
    swarm, state = Swarm(run), genesis(run)
    before = swarm.commit("w", 0)
    one = swarm.commit("w", 1, tokens=100)
    two = msgspec.structs.replace(swarm.commit("w", 1, tokens=999), seq=one.seq)
    after = swarm.commit("w", 2)
    for batch in (before, one, two, after):
        swarm.check(batch, "ok", "ok")
    entries = [entry for entry in swarm.entries if entry.author != key("w").peer]
    entries += [before, one, two, msgspec.structs.replace(after, seq=2)]
    assert forks(entries) == {key("w").peer: 1}
    assert before in without_forks(entries)
    assert not {one.digest, two.digest, after.digest} & {e.digest for e in without_forks(entries)}
    found = propose_cut(run, state, entries)
    assert found is not None
    cut, folded = found
    assert set(folded.batches) == {before.digest}
    assert folded.heads[key("w").peer].digest == before.digest
    # Who holds one branch only arrives at the same state, since the cut stops before the fork.
    honest = [entry for entry in entries if entry.digest != two.digest]
    signed = Entry(run.spec.originator, 0, bytes(32), cut)
    assert check_cut(run, state, signed, honest).root == folded.root
    # Evidence from elsewhere has the same effect as holding both branches.
    known = propose_cut(run, state, honest, {key("w").peer: 1})
    assert known is not None
    assert known[1].root == folded.root


def test_a_cut_of_the_other_branch_is_asked_for() -> None:
    run = run_of()
    swarm, state = Swarm(run), genesis(run)
    one = swarm.commit("w", 0)
    two = msgspec.structs.replace(one, digest=bytes(32))
    found = propose_cut(run, state, [one])
    assert found is not None
    cut = Entry(run.spec.originator, 0, bytes(32), found[0])
    with pytest.raises(MissingEvents) as missing:
        check_cut(run, state, cut, [two])
    assert missing.value.gaps == [(key("w").peer, 0, 0)]
    assert check_cut(run, state, cut, [one]).root == found[1].root


def test_more_authors_than_a_cut_holds_take_turns() -> None:
    run = run_of()
    state = genesis(run)
    entries = [
        Entry(f"peer {i:033}".encode(), 0, i.to_bytes(32, "big"), Skipped(0, "x"))
        for i in range(700)
    ]
    first = propose_cut(run, state, entries)
    assert first is not None
    assert len(first[0].heads) == 600
    second = propose_cut(run, first[1], entries)
    assert second is not None
    assert len(second[0].heads) == 100
    assert isinstance(first[0], Cut)
    decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(first[0]), type=Cut)
    assert decoded == first[0]


def test_cuts_go_on_until_a_finished_run_has_settled_everything() -> None:
    """The last batches have no further batches to wait for, and nothing new is said any more."""
    run = run_of(vest_batches=50, steps=1)
    swarm, state = Swarm(run), genesis(run)
    last = swarm.commit("w", 0)
    swarm.check(last, "ok", "ok")
    swarm.publish(1, last)
    for _ in range(10):
        if propose_cut(run, state, swarm.entries) is None:
            break
        cut, _ = proposed(run, state, swarm)
        state = check_cut(run, state, cut, swarm.entries)
    assert propose_cut(run, state, swarm.entries) is None
    assert balances(state)[key("w").peer].pending_micro == 0
    assert balances(state)[key("w").peer].final_micro == 100
    assert balances(state)[key("l").peer].final_micro == 100


def test_an_idle_run_that_is_not_finished_makes_no_cuts_for_ever() -> None:
    run = run_of(vest_batches=50)
    swarm, state = Swarm(run), genesis(run)
    swarm.check(swarm.commit("w", 0), "ok", "ok")
    cuts = 0
    while propose_cut(run, state, swarm.entries) is not None and cuts < 20:
        cut, _ = proposed(run, state, swarm)
        state, cuts = check_cut(run, state, cut, swarm.entries), cuts + 1
    assert cuts <= 4
