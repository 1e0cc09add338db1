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
        for chunk in to_score[index]:
            score = _score(rollout.proofs[chunk], own, chunk, spec.proof)
            if score is None:
                malformed += 1
            else:
                chunks.append(score)
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


def _score(proof: bytes, own: Prefill, chunk: int, spec: ProofSpec) -> toploc.ChunkScore | None:
    """The score of one opened chunk, None if its proof is malformed."""
    rows = own.rows[chunk * spec.chunk_tokens : (chunk + 1) * spec.chunk_tokens]
    decoded = toploc.decode_proof(proof, rows.size, spec.k)
    return None if isinstance(decoded, str) else toploc.score_chunk(decoded, rows, spec.k)
