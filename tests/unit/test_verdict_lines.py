"""What `primed rewards` says of a batch over its life, in the words of docs/contributor.md."""

from __future__ import annotations

from primed.verify.explain import BatchLine, before_commit, explain, skipped
from primed.verify.ledger import State, fold, genesis
from primed.verify.verdicts import Cases

from .ledger_swarm import Swarm, key, run_of


def test_every_word_of_a_batchs_life() -> None:
    run = run_of(vest_batches=2, vest_epochs=1)
    swarm, cases, state = Swarm(run), Cases(run), genesis(run)
    batch = swarm.commit("w", 0)

    def line(state: State) -> BatchLine:
        found = explain(run, state, batch.digest, cases.case(batch.digest))
        assert found is not None
        return found

    assert before_commit(0, "generating", 0).waits_for.startswith("Waits for the engine")
    assert before_commit(0, "stored", 100).state == "stored"
    assert skipped(3, "engine died").reason == "engine died"
    assert explain(run, state, batch.digest) is None
    cases.observe(batch, 0.0)
    assert line(state).state == "committed"
    assert line(state).waits_for == (
        "Waits for a verifier to claim it (its worker is on probation)."
    )
    cases.observe(swarm.claim("v0", batch), 0.0)
    assert line(state).waits_for == (
        "Waits for the verdicts of 1 verifiers (0 of 1 accepts so far)."
    )
    cases.observe(swarm.vote("v0", batch), 0.0)
    assert line(state).waits_for == (
        "Waits for its learner to train on it and the cut that holds its commitment."
    )
    cases.observe(swarm.publish(1, batch), 0.0)
    assert line(state).waits_for == "Waits for the cut that holds its commitment."
    assert line(state).used_by == swarm.versions[1].hex()
    for number in (1, 2):
        state = fold(run, state, swarm.entries, number)
        cases.adopt(state, 0.0)
    assert line(state) == BatchLine(
        0,
        "payable",
        "",
        "Waits to vest: 2 further batches of its worker and 1 more cuts.",
        100,
        100,
        swarm.versions[1].hex(),
    )
    for counter in (1, 2):
        swarm.commit("w", counter)
    state = fold(run, state, swarm.entries, 3)
    assert (line(state).state, line(state).waits_for) == ("vested", "")
    kept = explain(run, state, batch.digest, settled=state.settled[0])
    assert kept is not None
    assert (kept.state, kept.credits_micro) == ("vested", 100)


def test_rejected_lines_carry_the_reason_and_no_credits() -> None:
    run = run_of()
    swarm = Swarm(run)
    batches = [swarm.commit("w", counter) for counter in range(3)]
    for batch in batches[:2]:
        swarm.check(batch, "sampling", "sampling")
    cases = Cases(run)
    for entry in swarm.entries:
        cases.observe(entry, 0.0)
    state = fold(run, genesis(run), swarm.entries, 1)
    for known in (genesis(run), state):
        lines = [explain(run, known, b.digest, cases.case(b.digest)) for b in batches]
        labels = [line.label for line in lines if line is not None]
        assert labels == ["rejected (sampling)"] * 2 + ["rejected (excluded)"]
        assert all(line is not None and not line.waits_for for line in lines)
        assert all(line is not None and not line.credits_micro for line in lines)
    assert cases.is_excluded(key("w").peer)
