"""The ledger's rules, one by one: settlement, pay, vesting, fraud, admission."""

from __future__ import annotations

import pytest

from primed.verify.ledger import (
    Account,
    State,
    account_proof,
    balances,
    decode_state,
    encode_state,
    fold,
    genesis,
    is_account,
    open_cuts,
)
from primed.verify.runspec import Prices, Run
from primed.verify.statements import Admitted, Entry, Granted, Rejected, Skipped

from .ledger_swarm import Swarm, key, run_of


def folded(run: Run, state: State, swarm: Swarm, names: bool = True) -> State:
    state = fold(run, state, swarm.entries, state.number + 1)
    if names:
        swarm.names(state)
    return state


def batch_state(state: State, commitment: Entry) -> tuple[str, str]:
    batch = state.batches[commitment.digest]
    return batch.state, batch.reason


def test_cut_zero_is_the_run() -> None:
    run = run_of()
    state = genesis(run)
    assert (state.root, state.number, state.remaining_micro) == (run.run_id, 0, 1_000_000)
    assert account_proof(state, key("w").peer) is None


def test_accepted_work_is_payable_at_the_next_cut_and_vests() -> None:
    run, swarm = run_of(), Swarm(run_of())
    first = swarm.commit("w", 0)
    swarm.check(first, "ok", "ok")
    state = folded(run, genesis(run), swarm)
    assert batch_state(state, first) == ("committed", "")
    state = folded(run, state, swarm)
    assert batch_state(state, first) == ("payable", "")
    assert balances(state)[key("w").peer] == Account(0, 100, 0)
    assert balances(state)[key("v0").peer] == Account(0, 10, 0)
    for counter in (1, 2):
        swarm.commit("w", counter)
    state = folded(run, state, swarm)
    assert batch_state(state, first) == ("vested", "")
    assert [(row.state, row.credits_micro) for row in state.settled] == [("vested", 100)]
    assert balances(state)[key("w").peer] == Account(100, 0, 0)
    assert balances(state)[key("v0").peer] == Account(10, 0, 0)


def test_vesting_needs_batches_and_cuts() -> None:
    run = run_of(vest_epochs=3)
    swarm, state = Swarm(run), genesis(run)
    commits = [swarm.commit("w", counter) for counter in range(3)]
    swarm.check(commits[0], "ok", "ok")
    states = []
    for _ in range(5):
        state = folded(run, state, swarm)
        states.append(batch_state(state, commits[0])[0])
    assert states == ["committed", "payable", "payable", "payable", "vested"]


def test_without_claims_only_a_worker_off_probation_is_paid() -> None:
    run = run_of(probation_batches=1)
    swarm, state = Swarm(run), genesis(run)
    first, second = swarm.commit("w", 0), swarm.commit("w", 1)
    swarm.check(first, "ok", "ok")
    state = folded(run, folded(run, state, swarm), swarm)
    assert not state.workers[key("w").peer].on_probation(state.number)
    third = swarm.commit("w", 2)
    for _ in range(open_cuts(run.spec.parameters) + 1):
        state = folded(run, state, swarm)
    assert batch_state(state, third)[0] == "payable"
    assert batch_state(state, second) == ("inconclusive", "too few verdicts")


def test_three_verifiers_on_probation_need_two_accepts() -> None:
    run = run_of(verifiers=3)
    swarm, state = Swarm(run), genesis(run)
    one, two = swarm.commit("w", 0), swarm.commit("w", 1)
    swarm.check(one, "ok")
    swarm.check(two, "ok", "ok")
    state = folded(run, folded(run, state, swarm), swarm)
    assert batch_state(state, one)[0] == "committed"
    assert batch_state(state, two)[0] == "payable"


def test_a_lone_reject_blocks_but_burns_nothing() -> None:
    run = run_of()
    swarm, state = Swarm(run), genesis(run)
    batch = swarm.commit("w", 0)
    swarm.check(batch, "ok", "sampling")
    for _ in range(open_cuts(run.spec.parameters) + 2):
        state = folded(run, state, swarm)
    assert batch_state(state, batch) == ("inconclusive", "verdicts disagree")
    assert not state.workers[key("w").peer].fraud_counters


def test_fraud_burns_and_two_frauds_exclude() -> None:
    run = run_of(vest_batches=64)
    swarm, state = Swarm(run), genesis(run)
    good, bad = swarm.commit("w", 0), swarm.commit("w", 1)
    swarm.check(good, "ok", "ok")
    state = folded(run, folded(run, state, swarm), swarm)
    assert balances(state)[key("w").peer] == Account(0, 100, 0)
    swarm.check(bad, "proof", "sampling")
    state = folded(run, state, swarm)
    assert batch_state(state, bad) == ("rejected", "proof")
    assert batch_state(state, good) == ("rejected", "forfeited")
    assert balances(state)[key("w").peer] == Account(0, 0, 100)
    assert not state.workers[key("w").peer].excluded
    worse, waiting = swarm.commit("w", 2), swarm.commit("w", 3)
    swarm.check(worse, "proof", "proof")
    state = folded(run, state, swarm)
    assert state.workers[key("w").peer].excluded
    assert batch_state(state, waiting) == ("rejected", "excluded")
    late = swarm.commit("w", 4)
    swarm.check(late, "ok", "ok")
    state = folded(run, folded(run, state, swarm), swarm)
    assert batch_state(state, late) == ("rejected", "excluded")
    swarm.write("o", Admitted(key("w").peer, "worker"))
    again = swarm.commit("w", 5)
    swarm.check(again, "ok", "ok")
    state = folded(run, folded(run, state, swarm), swarm)
    assert batch_state(state, again) == ("payable", "")


def test_a_cheat_that_was_never_accepted_has_nothing() -> None:
    run = run_of()
    swarm, state = Swarm(run), genesis(run)
    for counter in range(6):
        swarm.check(swarm.commit("w", counter), "sampling", "proof")
    for _ in range(4):
        state = folded(run, state, swarm)
    assert state.workers[key("w").peer].excluded
    assert state.accounts.get(key("w").peer, Account()) == Account()
    assert balances(state)[key("v0").peer].final_micro == 60  # six agreeing rejects


def test_errors_are_unpaid_and_never_slashed() -> None:
    run = run_of()
    swarm, state = Swarm(run), genesis(run)
    gone = [swarm.commit("w", counter) for counter in range(3)]
    for batch in gone:
        swarm.check(batch, "unavailable", "unavailable")
    state = folded(run, state, swarm)
    assert {batch_state(state, batch) for batch in gone} == {("unavailable", "unavailable")}
    assert not state.workers[key("w").peer].excluded


def test_stale_counts_only_if_the_manifests_show_it() -> None:
    run = run_of(max_staleness=2)
    swarm, state = Swarm(run), genesis(run)
    for step in range(1, 4):
        swarm.publish(step)
    old, fresh = swarm.commit("w", 0, version=-4), swarm.commit("w", 1, version=-2)
    base, used = swarm.commit("w", 2, version=1), swarm.commit("w", 3, version=1)
    for batch in (old, fresh, base, used):
        swarm.check(batch, "ok", "ok")
        swarm.write("l", Rejected(batch.digest, "stale"))
    swarm.publish(4, used)
    state = folded(run, folded(run, state, swarm), swarm)
    assert batch_state(state, fresh)[0] == "payable"  # two steps behind is allowed
    assert batch_state(state, old)[0] == "payable"  # version 0 is in no cut: nothing shown
    assert batch_state(state, base) == ("stale", "stale")  # three steps behind
    assert batch_state(state, used)[0] == "payable"  # consumed all the same


def test_a_learners_refusal_is_unpaid_but_no_fraud() -> None:
    run = run_of()
    swarm, state = Swarm(run), genesis(run)
    refused, other = swarm.commit("w", 0), swarm.commit("w", 1)
    for batch in (refused, other):
        swarm.check(batch, "ok", "ok")
    swarm.write("l", Rejected(refused.digest, "reward"))
    swarm.write("x", Rejected(other.digest, "reward"))  # not its learner
    state = folded(run, folded(run, state, swarm), swarm)
    assert batch_state(state, refused) == ("rejected", "reward")
    assert batch_state(state, other) == ("payable", "")
    assert not state.workers[key("w").peer].fraud_counters


def test_one_scorer_alone_proves_no_fraud() -> None:
    for verifiers, frauds in ((1, ()), (2, (0,))):
        run = run_of(verifiers=verifiers)
        swarm = Swarm(run)
        batch = swarm.commit("w", 0)
        swarm.check(batch, *["reward"] * verifiers)
        state = folded(run, genesis(run), swarm)
        assert batch_state(state, batch) == ("rejected", "reward")
        assert state.workers[key("w").peer].fraud_counters == frauds


def test_listed_workers_only_where_the_run_says_so() -> None:
    run = run_of(admission="listed")
    swarm = Swarm(run)
    swarm.write("o", Admitted(key("w").peer, "worker"))
    mine, foreign = swarm.commit("w", 0), swarm.commit("x", 0)
    state = folded(run, genesis(run), swarm)
    assert batch_state(state, mine)[0] == "committed"
    assert batch_state(state, foreign) == ("rejected", "not admitted")


def test_gap_duplicate_and_skip() -> None:
    """Scenario 41: counters are contiguous and never reused."""
    run = run_of()
    swarm, state = Swarm(run), genesis(run)
    first, twice, beyond = swarm.commit("w", 0), swarm.commit("w", 0, 999), swarm.commit("w", 2)
    for batch in (first, twice, beyond):
        swarm.check(batch, "ok", "ok")
    state = folded(run, folded(run, state, swarm), swarm)
    assert batch_state(state, first)[0] == "payable"
    assert batch_state(state, twice) == ("rejected", "duplicate")
    assert batch_state(state, beyond)[0] == "committed"
    assert state.workers[key("w").peer].next_counter == 1
    swarm.write("w", Skipped(1, "engine died"))
    state = folded(run, folded(run, state, swarm), swarm)
    assert batch_state(state, beyond)[0] == "payable"
    assert (
        balances(state)[key("w").peer].pending_micro + balances(state)[key("w").peer].final_micro
        == 200
    )


def test_a_gap_that_stays_is_inconclusive() -> None:
    run = run_of()
    swarm, state = Swarm(run), genesis(run)
    beyond = swarm.commit("w", 5)
    for _ in range(open_cuts(run.spec.parameters) + 2):
        state = folded(run, state, swarm)
    assert batch_state(state, beyond) == ("inconclusive", "gap")


def test_many_skips_put_a_worker_back_on_probation() -> None:
    run = run_of(probation_batches=1)
    swarm, state = Swarm(run), genesis(run)
    swarm.check(swarm.commit("w", 0), "ok", "ok")
    state = folded(run, folded(run, state, swarm), swarm)
    assert not state.workers[key("w").peer].on_probation(state.number)
    swarm.write("w", Skipped(1, "tired"))
    state = folded(run, state, swarm)
    assert state.workers[key("w").peer].on_probation(state.number)


@pytest.mark.parametrize("fault", ["own receipt", "wrong root", "future cut", "learner"])
def test_commitments_that_never_count(fault: str) -> None:
    run = run_of()
    swarm, state = Swarm(run), genesis(run)
    if fault == "wrong root":
        swarm.cut_root = bytes(32)
    elif fault == "future cut":
        swarm.cut = 7
    batch = swarm.commit("w", 0, holder="w" if fault == "own receipt" else "l")
    if fault == "learner":
        run = run_of()
        state = decode_state(encode_state(state))
        state.members["learner"].clear()
    swarm.check(batch, "ok", "ok")
    state = folded(run, folded(run, state, swarm), swarm)
    reason = {"own receipt": "no receipt", "learner": "learner"}.get(fault, "cut")
    assert batch_state(state, batch) == ("rejected", reason)
    assert key("w").peer not in state.accounts


def test_verdicts_need_a_drawn_claim() -> None:
    run = run_of(probation_batches=0, verifiers=2)
    swarm, state = Swarm(run), genesis(run)
    batches = [swarm.commit("w", counter) for counter in range(20)]
    for batch in batches:
        swarm.check(batch, "ok", "ok")
        swarm.vote("w", batch)
    state = folded(run, state, swarm)
    claims = sum(len(batch.claims) for batch in state.batches.values())
    assert 0 < claims < 20  # a quarter of the batches, not all of them
    for record in state.batches.values():
        assert set(record.verdicts) == set(record.claims)


def test_a_second_verdict_of_one_verifier_changes_nothing() -> None:
    """Scenario 41: double claims and verdicts."""
    run = run_of(verifiers=1)
    swarm, state = Swarm(run), genesis(run)
    batch = swarm.commit("w", 0)
    for reason in ("ok", "ok", "proof"):
        swarm.check(batch, reason)
    for _ in range(3):
        state = folded(run, state, swarm)
    assert state.batches[batch.digest].claims == (key("v0").peer,)
    assert batch_state(state, batch)[0] == "payable"
    assert balances(state)[key("v0").peer] == Account(10, 0, 0)


def test_nobody_judges_their_own_work() -> None:
    run = run_of(verifiers=1)
    swarm, state = Swarm(run), genesis(run)
    batch = swarm.commit("v0", 0)
    swarm.check(batch, "ok")
    state = folded(run, folded(run, state, swarm), swarm)
    assert batch_state(state, batch)[0] == "committed"


def test_facts_may_enter_cuts_before_their_commitment() -> None:
    run = run_of()
    swarm, state = Swarm(run), genesis(run)
    batch = swarm.commit("w", 0)
    swarm.check(batch, "ok", "ok")
    swarm.write("l", Rejected(batch.digest, "schema"))
    early = [entry for entry in swarm.entries if entry.author != key("w").peer]
    state = fold(run, state, early, 1)
    assert len(state.orphans) == 5
    state = folded(run, state, swarm)
    assert not state.orphans
    assert len(state.batches[batch.digest].verdicts) == 2
    lost = fold(run, fold(run, fold(run, genesis(run), early, 1), [], 2), [], 3)
    assert not lost.orphans


def test_a_version_is_paid_once_all_it_consumed_is_payable() -> None:
    run = run_of()
    swarm, state = Swarm(run), genesis(run)
    good, bad = swarm.commit("w", 0), swarm.commit("w", 1)
    swarm.check(good, "ok", "ok")
    swarm.check(bad, "unavailable", "unavailable")
    swarm.publish(1, good)
    swarm.publish(2, bad)
    swarm.publish(3)
    swarm.publish(4, good)  # already consumed by step 1
    for _ in range(12):
        state = folded(run, state, swarm)
    learner = balances(state)[key("l").peer]
    assert learner.final_micro + learner.pending_micro == 100
    assert not state.unpaid
    assert state.batches == {} or state.batches[good.digest].used_by == swarm.versions[1]


def test_budget_is_shared_pro_rata() -> None:
    prices = Prices(budget=150, token=1, verdict=0, version=0)
    run = run_of(prices=prices)
    swarm, state = Swarm(run), genesis(run)
    for worker, tokens in (("w", 100), ("x", 200)):
        swarm.check(swarm.commit(worker, 0, tokens), "ok", "ok")
    state = folded(run, folded(run, state, swarm), swarm)
    assert balances(state)[key("w").peer].pending_micro == 50
    assert balances(state)[key("x").peer].pending_micro == 100
    assert state.remaining_micro == 0


def test_grants_come_out_of_the_budget() -> None:
    run = run_of(prices=Prices(budget=100))
    swarm = Swarm(run)
    swarm.write("o", Granted(key("x").peer, 70))
    swarm.write("o", Granted(key("y").peer, 70))
    swarm.write("z", Granted(key("z").peer, 70))
    state = folded(run, genesis(run), swarm)
    assert balances(state) == dict(
        sorted({key("x").peer: Account(70), key("y").peer: Account(30)}.items())
    )
    assert state.remaining_micro == 0


def test_an_admitted_verifier_counts_from_the_cut_that_admits_it() -> None:
    run = run_of(verifiers=0)
    swarm, state = Swarm(run), genesis(run)
    swarm.write("o", Admitted(key("v0").peer, "verifier"))
    early = swarm.commit("w", 0)
    swarm.check(early, "ok")
    state = folded(run, state, swarm)
    later = swarm.commit("w", 1)
    swarm.check(later, "ok")
    state = folded(run, folded(run, state, swarm), swarm)
    assert batch_state(state, early)[0] == "committed"
    assert batch_state(state, later)[0] == "payable"


def test_balances_are_claimable_and_states_survive_encoding() -> None:
    run = run_of()
    swarm, state = Swarm(run), genesis(run)
    for worker in ("w", "x", "y"):
        swarm.check(swarm.commit(worker, 0), "ok", "ok")
    state = folded(run, folded(run, state, swarm), swarm)
    for peer in state.accounts:
        proof = account_proof(state, peer)
        assert proof is not None
        assert is_account(state.root, peer, proof)
        richer = Account(10**9, proof.account.pending_micro, proof.account.burned_micro)
        forged = type(proof)(richer, proof.index, proof.count, proof.path)
        assert not is_account(state.root, peer, forged)
        assert not is_account(state.root, key("o").peer, proof)
    again = decode_state(encode_state(state))
    assert again == state
    assert fold(run, again, [], 3).root == fold(run, state, [], 3).root
    with pytest.raises(ValueError, match="root"):
        decode_state(encode_state(state).replace(state.history, bytes(32)))
    with pytest.raises(ValueError, match="not a ledger state"):
        decode_state(b"\xc1garbage")


def test_fold_refuses_another_number() -> None:
    run = run_of()
    with pytest.raises(ValueError, match="does not follow"):
        fold(run, genesis(run), [], 2)


def test_closed_batches_leave_the_state() -> None:
    run = run_of(vest_batches=0, probation_batches=0, audit_rate=0.0)
    swarm, state = Swarm(run), genesis(run)
    sizes = []
    for counter in range(30):
        swarm.commit("w", counter)
        state = folded(run, state, swarm)
        sizes.append(len(encode_state(state)))
    assert len(state.batches) < 15
    assert max(sizes[15:]) < 1.1 * sizes[15]


def test_most_weight_in_favour_outvotes_a_lone_reject() -> None:
    run = run_of(verifiers=3)
    swarm, state = Swarm(run), genesis(run)
    batch = swarm.commit("w", 0)
    swarm.check(batch, "ok", "ok", "sampling")
    state = folded(run, folded(run, state, swarm), swarm)
    assert batch_state(state, batch)[0] == "payable"
