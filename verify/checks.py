"""Checks 1 to 5 of a batch: all that can be said without the model, cheapest first.

`inspect_batch` names the first check that a decoded batch fails: schema, commitment, assignment,
counts, reward or duplicate. Both the learner and every drawn verifier run it; what it refuses is
wrong on any machine, so no tolerance is involved beyond fp32 rounding of a log-probability.

Termination, as far as it shows in the tokens: a completion ends at its first EOS (`finished`, the
last token and nowhere else) or at exactly `max_new_tokens`. That EOS was due where it is claimed and
not due before is seen by replaying the sampling (primed.verify.sampling).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from primed.verify.assignment import assign
from primed.verify.batch import Batch, Rollout, commitment_root
from primed.verify.fingerprints import completion_fingerprints, fingerprints
from primed.verify.judgement import judge
from primed.verify.runspec import RunSpec
from primed.verify.toploc import chunks_of, proof_bytes

__all__ = [
    "LOGPROB_MAX",
    "LOGPROB_MIN",
    "Finding",
    "ModelFacts",
    "Scorer",
    "Stated",
    "fingerprints",
    "inspect_batch",
    "judge",
    "rescore",
]

Check = Literal["schema", "commitment", "assignment", "counts", "reward", "duplicate"]

# A sampled token lies within 27 logits / T of the best one (the noise spans -3.2 to 23.6), so its
# log-probability is above -27 - ln(vocabulary): anything lower was not computed by a model.
LOGPROB_MIN = -100.0
LOGPROB_MAX = 1e-4  # fp32 rounding of a logarithm of 1

# (environment, prompt, token ids u32 [n], finished) -> reward in millionths
Scorer = Callable[[int, int, NDArray[np.uint32], bool], int]


class Finding(Struct, frozen=True):
    """The check that a batch fails, and what is wrong in words for logs and verdicts."""

    check: Check
    detail: str


class Stated(Struct, frozen=True):
    """What a worker's commitment says about its batch."""

    worker: bytes
    counter: int
    version: bytes
    root: bytes
    rollouts: int
    chunks: int
    tokens: int


class ModelFacts(Struct, frozen=True):
    """What the checks need to know of the run's model and tokenizer."""

    vocabulary: int
    hidden: int  # width of the states that proofs are about
    eos: int


def inspect_batch(
    batch: Batch,
    stated: Stated,
    run_id: bytes,
    spec: RunSpec,
    sizes: Sequence[int],
    model: ModelFacts,
    scorer: Scorer,
) -> Finding | None:
    """The first failed check of checks 1 to 5, or None. sizes: prompts of each environment.

    A sample for which the scorer raises is void: its stated reward is neither right nor wrong.
    """
    checks: list[tuple[Check, Callable[[], Iterator[str]]]] = [
        ("schema", lambda: _wrong_numbers(batch)),
        ("commitment", lambda: _wrong_commitment(batch, stated, run_id)),
        ("assignment", lambda: _wrong_assignment(batch, run_id, spec, sizes)),
        ("counts", lambda: _wrong_counts(batch, spec, model)),
        ("reward", lambda: _wrong_rewards(batch, scorer)),
        ("duplicate", lambda: _duplicates(batch, spec)),
    ]
    for name, wrong in checks:
        detail = next(wrong(), None)
        if detail is not None:
            return Finding(name, detail)
    return None


def rescore(batch: Batch, scorer: Scorer) -> Iterator[tuple[int, int, int | None]]:
    """(group, sample, reward in millionths or None if void), recomputed, in commitment order."""
    for g, s, group, rollout in batch.rollouts():
        try:
            reward = scorer(group.environment, group.prompt, rollout.token_ids, rollout.finished)
        except Exception:  # noqa: BLE001  a border: environments are other people's code
            yield g, s, None
        else:
            yield g, s, reward


def _wrong_numbers(batch: Batch) -> Iterator[str]:
    for g, s, _, rollout in batch.rollouts():
        if not 4 <= len(rollout.tokens) == len(rollout.logprobs) or len(rollout.tokens) % 4:
            yield f"{_at(g, s)}: tokens and log-probabilities differ in length"
            continue
        logprobs = rollout.logprob_values
        # Comparisons with NaN are false: this refuses it too.
        fine = (logprobs >= LOGPROB_MIN) & (logprobs <= LOGPROB_MAX)
        if not fine.all():
            place = int(np.flatnonzero(~fine)[0])
            yield f"{_at(g, s)}: log-probability {logprobs[place]} of token {place}"


def _wrong_commitment(batch: Batch, stated: Stated, run_id: bytes) -> Iterator[str]:
    pairs: list[tuple[str, object, object]] = [
        ("run", batch.run.hex(), run_id.hex()),
        ("worker", batch.worker.hex(), stated.worker.hex()),
        ("counter", batch.counter, stated.counter),
        ("version", batch.version.hex(), stated.version.hex()),
        ("rollouts", batch.total_rollouts, stated.rollouts),
        ("chunks", batch.total_chunks, stated.chunks),
        ("tokens", batch.total_tokens, stated.tokens),
    ]
    for name, found, claimed in pairs:
        if found != claimed:
            yield f"{name} is {found}, the commitment says {claimed}"
    if commitment_root(batch) != stated.root:
        yield "the batch does not have the committed root"


def _wrong_assignment(
    batch: Batch, run_id: bytes, spec: RunSpec, sizes: Sequence[int]
) -> Iterator[str]:
    assigned = assign(run_id, batch.worker, batch.counter, spec, sizes)
    for g, (group, want) in enumerate(zip(batch.groups, assigned, strict=False)):
        if (group.environment, group.prompt) != (want.environment, want.prompt):
            yield (
                f"group {g} answers prompt {group.prompt} of environment {group.environment}, "
                f"assigned was {want.prompt} of {want.environment}"
            )


def _wrong_counts(batch: Batch, spec: RunSpec, model: ModelFacts) -> Iterator[str]:
    sampling = spec.sampling
    if len(batch.groups) != sampling.groups:
        yield f"{len(batch.groups)} groups instead of {sampling.groups}"
    for g, group in enumerate(batch.groups):
        if len(group.rollouts) != sampling.group_size:
            yield f"group {g}: {len(group.rollouts)} completions instead of {sampling.group_size}"
    for g, s, _, rollout in batch.rollouts():
        wrong = _wrong_tokens(rollout, sampling.max_new_tokens, model) or _wrong_proofs(
            rollout, spec, model.hidden
        )
        if wrong:
            yield f"{_at(g, s)}: {wrong}"


def _wrong_tokens(rollout: Rollout, max_new_tokens: int, model: ModelFacts) -> str:
    tokens = rollout.token_ids
    if len(tokens) > max_new_tokens:
        return f"{len(tokens)} tokens, at most {max_new_tokens} are allowed"
    if int(tokens.max()) >= model.vocabulary:
        return f"token {int(tokens.max())} is outside the vocabulary of {model.vocabulary}"
    ends = np.flatnonzero(tokens == model.eos)
    if len(ends) and int(ends[0]) != len(tokens) - 1:
        return f"goes on after EOS at token {int(ends[0])}"
    if rollout.finished != bool(len(ends)):
        return f"finished is {rollout.finished}, the last token says {bool(len(ends))}"
    if not rollout.finished and len(tokens) != max_new_tokens:
        return f"stops after {len(tokens)} tokens without EOS"
    return ""


def _wrong_proofs(rollout: Rollout, spec: RunSpec, hidden: int) -> str:
    rows = chunks_of(len(rollout.token_ids), spec.proof.chunk_tokens)
    if len(rollout.proofs) != len(rows):
        return f"{len(rollout.proofs)} proofs instead of {len(rows)}"
    for c, (proof, n) in enumerate(zip(rollout.proofs, rows, strict=True)):
        wanted = proof_bytes(n * hidden, spec.proof.k)
        if len(proof) != wanted:
            return f"proof {c} has {len(proof)} bytes instead of {wanted}"
    return ""


def _wrong_rewards(batch: Batch, scorer: Scorer) -> Iterator[str]:
    for g, s, reward in rescore(batch, scorer):
        stated = batch.groups[g].rollouts[s].reward_micro
        if reward is not None and reward != stated:
            yield f"{_at(g, s)}: reward {stated} is stated, {reward} comes out (millionths)"


def _duplicates(batch: Batch, spec: RunSpec) -> Iterator[str]:
    least = spec.parameters.duplicate_min_tokens
    for fingerprint, times in _repeated(completion_fingerprints(batch, least)):
        yield f"a completion that chance does not repeat occurs {times} times ({fingerprint.hex()})"


def _repeated(fingerprints: Iterable[bytes]) -> Iterator[tuple[bytes, int]]:
    return ((each, times) for each, times in Counter(fingerprints).items() if times > 1)


def _at(g: int, s: int) -> str:
    return f"group {g} sample {s}"
