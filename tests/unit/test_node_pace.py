"""How many batches a worker has under way: enough for its learner to go on, too few to go stale."""

from __future__ import annotations

import msgspec

from primed.node.pace import Pace
from primed.verify.rendezvous import ranked
from primed.verify.runspec import Listed, Run, sign_run
from primed.verify.statements import Committed, Entry, Joined

from .ledger_swarm import key, run_of

PATIENCE_S = 60.0
LEARNER = key("l").peer


def new_run(learners: int = 1) -> Run:
    run = run_of(max_staleness=4, batches_per_step=8, silent_learner_s=PATIENCE_S)
    more = [Listed(peer=key(f"l{i}").peer, role="learner") for i in range(1, learners)]
    admission = msgspec.structs.replace(
        run.spec.admission, listed=(*run.spec.admission.listed, *more)
    )
    return sign_run(msgspec.structs.replace(run.spec, admission=admission), key("o").sign)


def workers(count: int) -> list[bytes]:
    return [key(f"w{i}").peer for i in range(count)]


def joined(run: Run, peers: list[bytes], now: float = 0.0) -> Pace:
    pace = Pace(run, peers[0])
    for peer in peers:
        pace.observe(Entry(peer, 0, bytes(32), Joined(roles=("worker",), profile="torch")), now)
    return pace


def nobody(peer: bytes) -> bool:
    return False


def test_half_of_what_staleness_allows_is_shared_by_the_workers() -> None:
    peers = workers(4)
    pace = joined(new_run(), peers)
    assert pace.window(LEARNER, nobody, 1.0) == 4 * 8 // (2 * 4)
    assert pace.window(LEARNER, lambda peer: peer in peers[2:], 1.0) == 4 * 8 // (2 * 2)


def test_workers_that_left_do_not_keep_the_others_from_filling_a_step() -> None:
    peers = workers(20)
    pace = joined(new_run(), peers)
    assert pace.window(LEARNER, nobody, 1.0) == 1
    for peer in peers[:3]:
        body = Joined(roles=("worker",), profile="torch")
        pace.observe(Entry(peer, 1, bytes(32), body), PATIENCE_S)
    left_behind = pace.window(LEARNER, nobody, PATIENCE_S + 1.0)
    assert 3 * left_behind >= 8


def test_a_lone_worker_of_one_of_two_learners_makes_whole_steps() -> None:
    run = new_run(learners=2)
    first: dict[bytes, list[bytes]] = {}
    for peer in workers(30):
        order = ranked(run.peers("learner"), "learner", run.run_id, peer)
        first.setdefault(order[0], []).append(peer)
    many, few = first.values()
    pace = joined(run, [few[0], *many])
    (learner,) = {ranked(run.peers("learner"), "learner", run.run_id, peer)[0] for peer in few}
    assert pace.window(learner, nobody, 1.0) == 4 * 8 // 2


def test_workers_that_went_over_to_the_other_learner_are_not_counted() -> None:
    """One of three is connected to the learner; the others took it for gone (seed 254)."""
    peers = workers(3)
    pace, other = joined(new_run(), peers), key("l1").peer
    assert pace.window(LEARNER, nobody, 1.0) == 4 * 8 // (2 * 3)
    for peer in peers[1:]:
        zero = bytes(32)
        body = Committed(other, 0, zero, zero, 0, zero, zero, 1, zero, 1, 1, 1, ())
        pace.observe(Entry(peer, 1, zero, body), 1.0)
    assert pace.window(LEARNER, nobody, 2.0) == 4 * 8 // 2
    assert pace.window(other, nobody, 2.0) == 4 * 8 // (2 * 3)
