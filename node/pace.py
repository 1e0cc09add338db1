"""How far a worker runs ahead of its learner (docs/decisions/0004). Pure: from events and a clock."""

from __future__ import annotations

from collections.abc import Callable

from primed.verify.rendezvous import ranked
from primed.verify.runspec import Run
from primed.verify.statements import Committed, Entry, Joined


class Pace:
    """Of the worker `me` in a run."""

    def __init__(self, run: Run, me: bytes) -> None:
        self._run = run
        self._me = me
        self._seen: dict[bytes, float] = {}  # worker -> when it joined or last committed
        self._learners: dict[bytes, bytes] = {}  # worker -> whom it last worked for, else its first

    def observe(self, entry: Entry, now: float) -> None:
        body = entry.body
        if isinstance(body, Committed):
            self._learners[entry.author] = body.learner
            self._seen[entry.author] = now
        elif isinstance(body, Joined) and "worker" in body.roles:
            self._seen[entry.author] = now

    def window(self, learner: bytes, is_excluded: Callable[[bytes], bool], now: float) -> int:
        """How many unused batches this worker has under way: half of what the staleness bound
        allows its learner, shared among the workers at work for that one; and together at least
        what a step needs."""
        parameters = self._run.spec.parameters
        workers = self._at_work(learner, is_excluded, now - parameters.silent_learner_s)
        allowed = parameters.max_staleness * parameters.batches_per_step
        return max(allowed // (2 * workers), -(-parameters.batches_per_step // workers))

    def _at_work(self, learner: bytes, is_excluded: Callable[[bytes], bool], since: float) -> int:
        """Workers of the learner that were seen lately, this one included."""
        others = (
            peer
            for peer, at in self._seen.items()
            if peer != self._me and at >= since and not is_excluded(peer)
        )
        return 1 + sum(self._learner_of(peer) == learner for peer in others)

    def _learner_of(self, worker: bytes) -> bytes:
        if worker not in self._learners:
            order = ranked(self._run.peers("learner"), "learner", self._run.run_id, worker)
            self._learners[worker] = order[0]
        return self._learners[worker]
