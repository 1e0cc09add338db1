"""The live view of commitments: rounds, deadlines, exclusion, order of arrival (scenario 34)."""

from __future__ import annotations

import random
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primed.verify import verdicts, vrf
from primed.verify.ledger import fold, genesis
from primed.verify.runspec import Run
from primed.verify.statements import Admitted, Claim, Committed, Entry, Rejected, Skipped
from primed.verify.verdicts import EARLY_OF_OTHERS, Cases

from .ledger_swarm import Swarm, key, run_of


def fed(run: Run, swarm: Swarm, now: float = 0.0) -> Cases:
    cases = Cases(run)
    for entry in swarm.entries:
        cases.observe(entry, now)
    return cases


def state_of(cases: Cases, commitment: Entry) -> str:
    case = cases.case(commitment.digest)
    assert case is not None
    return case.state


def freed(run: Run, swarm: Swarm) -> Cases:
    """A view in which w is off probation as of cut 2, and commitments name that cut."""
    swarm.check(swarm.commit("w", 0), "ok", "ok")
    state = fold(run, genesis(run), swarm.entries, 1)
    state = fold(run, state, swarm.entries, 2)
    swarm.names(state)
    cases = fed(run, swarm)
    cases.adopt(state, 0.0)
    assert not cases.worker(key("w").peer).on_probation
    return cases


def test_a_probation_batch_is_claimed_checked_used() -> None:
    run = run_of()
    swarm, cases = Swarm(run), Cases(run)
    batch = swarm.commit("w", 0)
    cases.observe(batch, 5.0)
    case = cases.changes()[0]
    assert (case.state, case.now.deadline) == ("committed", 16.0)
    assert "probation" in case.now.waits_for
    assert cases.leased_versions() == {swarm.versions[0]}
    cases.observe(swarm.claim("v0", batch), 5.5)
    assert (case.state, case.now.deadline) == ("drawn", 16.0)
    assert cases.unfinished(key("v0").peer) == [case]
    cases.observe(swarm.vote("v0", batch), 6.0)
    assert cases.usable(key("l").peer) == [case]
    assert cases.usable(key("x").peer) == []
    cases.changes()
    cases.observe(swarm.publish(1, batch), 7.0)
    assert cases.changes() == [case]
    assert case.used_by == swarm.versions[1]
    assert cases.usable(key("l").peer) == []
    assert cases.leased_versions() == set()


def test_off_probation_nobody_drawn_is_usable_after_the_claim_window() -> None:
    run = run_of(probation_batches=1)
    swarm = Swarm(run)
    cases = freed(run, swarm)
    batch = swarm.commit("w", 1)
    cases.observe(batch, 5.0)
    assert cases.next_deadline() == 6.0
    cases.advance(5.9)
    assert state_of(cases, batch) == "committed"
    cases.advance(6.0)
    assert state_of(cases, batch) == "not drawn"
    assert [case.commitment for case in cases.usable(key("l").peer)][-1] == batch.digest


def test_a_late_claim_does_not_unmake_not_drawn_but_its_reject_does() -> None:
    run = run_of(probation_batches=1, audit_rate=1.0)
    swarm = Swarm(run)
    cases = freed(run, swarm)
    batch = swarm.commit("w", 1)
    cases.observe(batch, 0.0)
    cases.advance(1.0)
    cases.observe(swarm.claim("v0", batch), 1.5)
    assert state_of(cases, batch) == "not drawn"
    cases.observe(swarm.vote("v0", batch, "sampling"), 2.0)
    assert state_of(cases, batch) == "drawn"
    assert batch.digest not in {case.commitment for case in cases.usable(key("l").peer)}
    cases.advance(12.0)
    assert state_of(cases, batch) == "inconclusive"


def test_silent_verifiers_end_in_inconclusive_until_a_late_verdict() -> None:
    """A verifier that was killed after its claim resumes it; nothing committed is lost."""
    run = run_of()
    swarm, cases = Swarm(run), Cases(run)
    unclaimed, silent = swarm.commit("w", 0), swarm.commit("w", 1)
    cases.observe(unclaimed, 0.0)
    cases.observe(silent, 0.0)
    cases.observe(swarm.claim("v0", silent), 0.5)
    cases.advance(10.9)
    assert (state_of(cases, unclaimed), state_of(cases, silent)) == ("committed", "drawn")
    cases.advance(11.0)
    assert (state_of(cases, unclaimed), state_of(cases, silent)) == ("inconclusive",) * 2
    cases.observe(swarm.vote("v0", silent), 40.0)
    assert state_of(cases, silent) == "usable"


def test_inconclusive_verdicts_close_the_round_early() -> None:
    run = run_of()
    swarm, cases = Swarm(run), Cases(run)
    batch = swarm.commit("w", 0)
    swarm.check(batch, "", "")
    for entry in swarm.entries:
        cases.observe(entry, 0.2)
    assert state_of(cases, batch) == "drawn"  # more claims may come within the window
    cases.advance(1.2)
    assert state_of(cases, batch) == "inconclusive"


def test_two_accepts_needed_on_probation_with_three_verifiers() -> None:
    run = run_of(verifiers=3)
    swarm = Swarm(run)
    batch = swarm.commit("w", 0)
    swarm.check(batch, "ok")
    cases = fed(run, swarm)
    assert state_of(cases, batch) == "drawn"
    swarm.claim("v1", batch)
    swarm.vote("v1", batch)
    for entry in swarm.entries[-2:]:
        cases.observe(entry, 0.1)
    assert state_of(cases, batch) == "usable"


@pytest.mark.parametrize(("weights", "expected"), [((1, 1), "drawn"), ((2, 1), "rejected")])
def test_rejects_are_final_only_with_more_than_half_of_all_weight(
    weights: tuple[int, int], expected: str
) -> None:
    run = run_of(weights=weights)
    swarm = Swarm(run)
    batch = swarm.commit("w", 0)
    swarm.check(batch, "proof")
    assert state_of(fed(run, swarm), batch) == expected


def test_two_frauds_exclude_at_once_and_only_a_cut_readmits() -> None:
    run = run_of()
    swarm = Swarm(run)
    good = swarm.commit("w", 0)
    swarm.check(good, "ok", "ok")
    frauds = [swarm.commit("w", counter) for counter in (1, 2)]
    swarm.publish(1, *frauds)  # a fraud that is found after use is punished all the same
    for batch in frauds:
        swarm.check(batch, "sampling", "proof")
    waiting = swarm.commit("w", 3)
    cases = fed(run, swarm)
    status = cases.worker(key("w").peer)
    assert status.is_excluded
    assert status.frauds == ((1, "proof"), (2, "proof"))
    assert cases.is_excluded(key("w").peer)
    assert state_of(cases, waiting) == "rejected"
    assert cases.usable(key("l").peer) == []
    assert cases.duty(waiting.digest, key("v0").peer) is None
    state = fold(run, genesis(run), swarm.entries, 1)
    cases.adopt(state, 1.0)
    swarm.names(state)
    cases.observe(swarm.write("o", Admitted(key("w").peer, "worker")), 1.0)
    assert cases.is_excluded(key("w").peer)
    state = fold(run, state, swarm.entries, 2)
    cases.adopt(state, 2.0)
    assert not cases.is_excluded(key("w").peer)
    again = swarm.commit("w", 4)
    cases.observe(again, 3.0)
    assert cases.duty(again.digest, key("v0").peer) is not None
    assert not cases.is_excluded(key("w").peer)


def test_errors_do_not_exclude() -> None:
    run = run_of()
    swarm = Swarm(run)
    batches = [swarm.commit("w", counter) for counter in range(3)]
    for batch in batches:
        swarm.check(batch, "unavailable", "unavailable")
    cases = fed(run, swarm)
    assert {state_of(cases, batch) for batch in batches} == {"unavailable"}
    assert not cases.is_excluded(key("w").peer)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("stale", "stale"), ("unavailable", "unavailable"), ("schema", "rejected")],
)
def test_the_learners_refusal_counts_and_nobody_elses(reason: str, expected: str) -> None:
    """Scenario 34: what the learner refuses at schema is not trained on."""
    run = run_of()
    swarm = Swarm(run)
    batch = swarm.commit("w", 0)
    swarm.check(batch, "ok", "ok")
    swarm.write("x", Rejected(batch.digest, reason))
    cases = fed(run, swarm)
    assert state_of(cases, batch) == "usable"
    assert cases.ignored["not the batch's learner"] == 1
    cases.observe(swarm.write("l", Rejected(batch.digest, reason)), 0.0)
    assert state_of(cases, batch) == expected
    assert not cases.worker(key("w").peer).frauds


@pytest.mark.parametrize(("reason", "is_up"), [("schema", True), ("stale", False)])
def test_what_the_learner_calls_a_fraud_is_still_judged(reason: str, is_up: bool) -> None:
    """A quick learner must not shield a cheat from the verifiers' verdicts."""
    run = run_of()
    swarm, v0 = Swarm(run), key("v0")
    batch = swarm.commit("w", 0)
    swarm.write("l", Rejected(batch.digest, reason))
    cases = fed(run, swarm)
    claim = cases.claim_for(batch.digest, v0.peer, partial(vrf.prove, v0.seed))
    assert (claim is not None) == is_up
    swarm.check(batch, reason, reason)
    for entry in swarm.entries:
        cases.observe(entry, 0.0)
    assert [why for _, why in cases.worker(key("w").peer).frauds] == ([reason] if is_up else [])
    assert cases.duty(batch.digest, key("v2").peer) is None
    assert not cases.unfinished(v0.peer)


def test_claims_of_strangers_and_forged_proofs_do_not_count() -> None:
    run = run_of()
    swarm = Swarm(run)
    batch = swarm.commit("w", 0)
    swarm.claim("stranger", batch)
    swarm.vote("stranger", batch)
    forged = vrf.prove(key("v1").seed, b"another draw")
    swarm.write("v1", Claim(batch.digest, 0, forged))
    swarm.vote("v1", batch)
    swarm.vote("v0", batch)  # never claimed
    cases = fed(run, swarm)
    assert state_of(cases, batch) == "committed"
    assert cases.ignored["invalid claim"] == 2
    assert cases.ignored["verdict without a claim"] == 3


def test_verifiers_claim_what_they_are_drawn_for() -> None:
    run = run_of(probation_batches=1)
    swarm = Swarm(run)
    cases = freed(run, swarm)
    drawn = 0
    for counter in range(1, 41):
        batch = swarm.commit("w", counter)
        cases.observe(batch, 0.0)
        for name in ("v0", "v1"):
            claim = cases.claim_for(
                batch.digest, key(name).peer, partial(vrf.prove, key(name).seed)
            )
            if claim is not None:
                drawn += 1
                cases.observe(swarm.write(name, claim), 0.0)
                assert state_of(cases, batch) == "drawn"
                assert cases.duty(batch.digest, key(name).peer) is None
        assert cases.duty(batch.digest, key("w").peer) is None
    assert 3 <= drawn <= 25  # expected 0.29 a batch
    assert not cases.ignored


def test_contiguity_duplicates_and_skips() -> None:
    run = run_of()
    swarm = Swarm(run)
    first, beyond, twice = swarm.commit("w", 0), swarm.commit("w", 2), swarm.commit("w", 0, 999)
    cases = fed(run, swarm)
    case = cases.case(beyond.digest)
    assert case is not None
    assert "counter 1" in case.now.waits_for
    assert cases.duty(beyond.digest, key("v0").peer) is None
    assert state_of(cases, twice) == "rejected"
    cases.observe(swarm.write("w", Skipped(1, "engine died")), 3.0)
    assert cases.duty(beyond.digest, key("v0").peer) is not None
    assert cases.duty(first.digest, key("v0").peer) is not None
    assert case.opened == 3.0
    cases.observe(swarm.commit("w", 10_000), 3.0)
    assert cases.ignored["commitment far beyond a gap"] == 1


def test_a_commitment_waits_for_the_cut_it_names() -> None:
    run = run_of()
    swarm, cases = Swarm(run), Cases(run)
    swarm.write("x", Skipped(0, "x"))
    state = fold(run, genesis(run), swarm.entries, 1)
    swarm.names(state)
    batch = swarm.commit("w", 0)
    cases.observe(batch, 0.0)
    cases.observe(swarm.claim("v0", batch), 0.0)
    case = cases.case(batch.digest)
    assert case is not None
    assert "cut 1" in case.now.waits_for
    cases.adopt(state, 9.0)
    assert (case.state, case.opened) == ("drawn", 9.0)
    swarm.cut_root = bytes(32)
    wrong = swarm.commit("w", 1)
    cases.observe(wrong, 9.0)
    assert cases.case(wrong.digest).now.reason == "cut"  # type: ignore[union-attr]


def test_equivocation_voids_open_commitments() -> None:
    """Scenario 41."""
    run = run_of()
    swarm = Swarm(run)
    before, after = swarm.commit("w", 0), swarm.commit("w", 1)
    cases = fed(run, swarm)
    cases.void(key("w").peer, after.seq, 0.0)
    assert state_of(cases, before) == "committed"
    assert cases.case(after.digest).now.reason == "equivocation"  # type: ignore[union-attr]


def test_a_restarted_node_goes_on_from_the_ledger() -> None:
    """Scenario 42: replayed events of closed batches do not come back to life."""
    run = run_of()
    swarm = Swarm(run)
    done, used, waits = (swarm.commit("w", counter) for counter in range(3))
    swarm.check(done, "unavailable", "unavailable")
    swarm.check(used, "ok", "ok")
    swarm.publish(1, used)
    swarm.claim("v0", waits)
    state = fold(run, fold(run, genesis(run), swarm.entries, 1), swarm.entries, 2)
    cases = Cases(run)
    cases.adopt(state, 100.0)
    for entry in swarm.entries:
        cases.observe(entry, 100.0)
    assert cases.case(done.digest) is None
    assert cases.case(used.digest).used_by == swarm.versions[1]  # type: ignore[union-attr]
    assert state_of(cases, waits) == "drawn"
    assert cases.unfinished(key("v0").peer)[0].commitment == waits.digest
    for number in range(3, 12):
        state = fold(run, state, [], number)
        cases.adopt(state, 200.0)
    assert cases.case(waits.digest) is None


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.sampled_from(["ok", "proof", ""]), max_size=8))
def test_the_order_of_arrival_does_not_matter(seed: int, reasons: list[str]) -> None:
    """Any interleaving that keeps each author's order gives the same states and exclusions."""
    run, chance = run_of(), random.Random(seed)
    swarm = Swarm(run)
    batches = []
    for counter, reason in enumerate(reasons):
        batches.append(swarm.commit("w", counter))
        swarm.check(batches[-1], reason, chance.choice(["ok", reason]))
    swarm.publish(1, *batches[:2])
    expected = fed(run, swarm)
    chains = [[e for e in swarm.entries if e.author == key(n).peer] for n in ("w", "v0", "v1", "l")]
    mixed = Cases(run)
    while any(chains):
        mixed.observe(chance.choice([chain for chain in chains if chain]).pop(0), 0.0)
    for view in (mixed, expected):
        view.advance(100.0)
    assert [state_of(mixed, b) for b in batches] == [state_of(expected, b) for b in batches]
    assert mixed.is_excluded(key("w").peer) == expected.is_excluded(key("w").peer)
    usable = [
        {case.commitment for case in view.usable(key("l").peer)} for view in (mixed, expected)
    ]
    assert usable[0] == usable[1]


def test_one_workers_flood_of_commitments_pushes_nobody_elses_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verdicts, "CASES_MAX", 50)
    run = run_of()
    swarm = Swarm(run)
    honest = [swarm.commit("honest", counter) for counter in range(3)]
    swarm.claim("v0", honest[0])
    cases = fed(run, swarm)
    for counter in range(100):
        cases.observe(swarm.commit("flood", counter, holder="flood-2"), 1.0)
    assert [state_of(cases, batch) for batch in honest] == ["drawn", "committed", "committed"]
    assert [case.worker for case in cases.unfinished(key("v0").peer)] == [key("honest").peer]
    assert len(cases.all()) == 50


def test_a_crowd_of_one_commitment_each_leaves_those_who_came_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verdicts, "CASES_MAX", 50)
    run = run_of()
    swarm = Swarm(run)
    honest = [swarm.commit("honest", counter) for counter in range(3)]
    cases = fed(run, swarm)
    for number in range(100):
        cases.observe(swarm.commit(f"sybil-{number}", 0, holder="crowd"), 1.0)
    assert [case.commitment for case in cases.of_worker(key("honest").peer)] == [honest[0].digest]
    assert len(cases.all()) == 50


def test_claims_of_strangers_leave_room_for_the_verifiers() -> None:
    """A replay goes by author, and a draw cannot be checked before its commitment is there."""
    run = run_of(audit_rate=1.0)
    swarm = Swarm(run)
    batch = swarm.commit("w", 0)
    swarm.check(batch, "sampling", "sampling")
    said = swarm.entries[1:]
    for number in range(EARLY_OF_OTHERS + 9):
        swarm.write(f"x{number}", Claim(batch.digest, 0, bytes(80)))
    cases = Cases(run)
    for entry in [*swarm.entries[1 + len(said) :], *said, batch]:
        cases.observe(entry, 0.0)
    assert state_of(cases, batch) == "rejected"
    assert cases.worker(key("w").peer).frauds == ((0, "sampling"),)


def test_what_a_verifier_said_last_is_known_when_the_commitments_come_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verdicts, "EARLY_OF_MEMBER", 6)
    run = run_of(audit_rate=1.0)
    swarm = Swarm(run)
    for counter in range(20):
        swarm.check(swarm.commit("w", counter), "ok", "ok")
    cases = Cases(run)
    for entry in sorted(swarm.entries, key=lambda e: (isinstance(e.body, Committed), e.author)):
        cases.observe(entry, 0.0)
    batches = cases.of_worker(key("w").peer)
    assert [len(case.verdicts) for case in batches] == [0] * 17 + [2] * 3
