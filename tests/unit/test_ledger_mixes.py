"""A learner's mixes carry its lineage on in the ledger, and earn nothing."""

from __future__ import annotations

import msgspec

from primed.verify.ledger import balances, fold, genesis
from primed.verify.statements import Manifest, version_of

from .ledger_swarm import Swarm, key, run_of


def test_a_mix_is_followed_and_not_paid() -> None:
    run = run_of()
    swarm, state = Swarm(run), genesis(run)
    batch = swarm.commit("w", 0)
    swarm.check(batch, "ok", "ok")
    swarm.publish(1)
    step = swarm.publish(2).body
    assert isinstance(step, Manifest)
    mix = msgspec.structs.replace(step, kind="mix", parents=(*step.parents, bytes(32)))
    swarm.entries[-1] = msgspec.structs.replace(swarm.entries[-1], body=mix)
    swarm.versions[-1] = version_of(mix)
    swarm.publish(3, batch)
    for _ in range(6):
        state = fold(run, state, swarm.entries if not state.number else [], state.number + 1)
    assert state.newest[key("l").peer] == swarm.versions[3]
    learner = balances(state)[key("l").peer]
    assert learner.final_micro + learner.pending_micro == 100  # for step 3 alone
