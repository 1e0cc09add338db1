"""Fingerprints of what a batch says, apart from who says it: for finding copies.

A copy is a completion that occurs again although its own log-probabilities make chance repetition
impossible. A collapsed policy, T = 0 or a short answer repeats itself honestly, so completions
that the model gives with a probability above e^-30 have no fingerprint; stating higher
log-probabilities to hide a copy is what the check of log-probabilities finds.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from primed.verify.batch import Batch, Rollout
from primed.verify.digests import digest, u64

SURPRISE_MIN_NATS = 30.0  # 1e-13 for one pair: none by chance in the life of a run


def fingerprints(batch: Batch, min_tokens: int) -> list[bytes]:
    """The batch's fingerprint (prompts and tokens, no worker or counter), then one for each
    completion of at least `min_tokens` tokens that chance does not repeat. 32 bytes each."""
    return [batch_fingerprint(batch), *completion_fingerprints(batch, min_tokens)]


def batch_fingerprint(batch: Batch) -> bytes:
    fields = []
    for group in batch.groups:
        fields += [u64(group.environment), u64(group.prompt), u64(len(group.rollouts))]
        fields += [rollout.tokens for rollout in group.rollouts]
    return digest("fingerprint-batch", *fields)


def completion_fingerprints(batch: Batch, min_tokens: int) -> Iterator[bytes]:
    """One per completion that is long and surprising enough, over its prompt and tokens."""
    for _, _, group, rollout in batch.rollouts():
        if len(rollout.tokens) // 4 >= min_tokens and _surprise_nats(rollout) >= SURPRISE_MIN_NATS:
            yield digest("fingerprint", u64(group.environment), u64(group.prompt), rollout.tokens)


def _surprise_nats(rollout: Rollout) -> float:
    return -float(rollout.logprob_values.sum(dtype=np.float64))
