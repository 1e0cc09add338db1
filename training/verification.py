"""Check 6: replay a batch on the verifier's own model and measure how far it is from honest.

One prefill gives the logits that the sampling is replayed with, the log-probabilities and the
states that opened proofs are scored against. Only measures; `primed.verify.judgement` decides.
The batch must have passed checks 1 to 5.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from primed.training.context import RunContext
from primed.training.engine import Engine, Prefill, processed_logprobs
from primed.training.rollouts import prompts_and_completions
from primed.verify import judgement, sampling, toploc
from primed.verify.assignment import assign
from primed.verify.batch import Batch, Rollout
from primed.verify.runspec import ProofSpec


def measure(
    engine: Engine, context: RunContext, batch: Batch, opened: Sequence[int]
) -> tuple[dict[str, float], int]:
    """(pooled measurements, opened proofs that are malformed) of a batch.

    opened: indices over all chunks of the batch in commitment order (verify.draw.opened).
    """
    spec = context.spec
    rollouts = [rollout for _, _, _, rollout in batch.rollouts()]
    replayable = _proofs_of_other_groups(batch)
    assigned = assign(context.run_id, batch.worker, batch.counter, spec, context.sizes)
    seeds = [seed for group in assigned for seed in group.seeds]
    to_score = _by_rollout(rollouts, opened)
    samplings, chunks, error_sum, malformed = [], [], 0.0, 0
    prompts, completions = prompts_and_completions(batch, context)
    for index, own in engine.prefill(prompts, completions):
        rollout, temperature = rollouts[index], spec.sampling.temperature
        ids = rollout.token_ids
        first = len(prompts[index])
        samplings.append(sampling.replay(own.logits, ids, seeds[index], first, temperature))
        logprobs = processed_logprobs(own.logits, ids, temperature)
        error_sum += judgement.logprob_error_sum(rollout.logprob_values, logprobs)
        scores = _scores(rollout, own, to_score[index], replayable[index], spec.proof)
        malformed += scores.count(None)
        chunks += [score for score in scores if score is not None]
    if not chunks:  # all that was opened is malformed: nothing to measure a distance on
        chunks = [toploc.ChunkScore(1, 0, float(toploc.DISTANCE_CAP))]
    return judgement.pooled(samplings, chunks, error_sum), malformed


def _by_rollout(rollouts: Sequence[Rollout], opened: Sequence[int]) -> dict[int, list[int]]:
    """Opened chunks as indices within their rollout."""
    owner = [(i, c) for i, rollout in enumerate(rollouts) for c in range(len(rollout.proofs))]
    found: dict[int, list[int]] = defaultdict(list)
    for chunk in opened:
        i, c = owner[chunk]
        found[i].append(c)
    return found


def _proofs_of_other_groups(batch: Batch) -> list[bytes]:
    """Of each rollout the first proof of the next group, another prompt's; b"" if there is one group.

    What replaying a proof would score. Within a group completions, and so proofs, may be equal.
    """
    firsts = [group.rollouts[0].proofs[0] for group in batch.groups]
    following = firsts[1:] + firsts[:1] if len(firsts) > 1 else [b""]
    return [following[g] for g, _, _, _ in batch.rollouts()]


def _scores(
    rollout: Rollout, own: Prefill, opened: Sequence[int], other: bytes, spec: ProofSpec
) -> list[toploc.ChunkScore | None]:
    """The scores of a rollout's opened chunks, None for a malformed proof."""
    size = spec.chunk_tokens
    chunks = [own.rows[chunk * size : (chunk + 1) * size] for chunk in opened]
    proofs = [rollout.proofs[chunk] for chunk in opened]
    return toploc.score_chunks(chunks, proofs, spec.k, [other] * len(opened))
