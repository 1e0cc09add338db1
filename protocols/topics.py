"""Names of the gossip topics: one for a run's events, one for the shards of each of its
learners."""

from __future__ import annotations

from primed.p2p import peerid


def events_topic(run: bytes) -> str:
    return f"primed/{run.hex()}/events"


def shards_topic(run: bytes, learner: bytes) -> str:
    return f"primed/{run.hex()}/shards/{peerid.to_text(learner)}"
