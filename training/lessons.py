"""From batch files to training samples: what the learner takes from a batch, and what it refuses.

Batches given to the learner have passed checks 1 to 5. It still trusts no number that could move
its parameters: log-probabilities must be possible ones (scenario 34), prompts come from the
installed environment, advantages are computed here. Groups without spread teach nothing and stop
here; they were paid alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from primed.training import grpo
from primed.training.environments import Environment
from primed.training.errors import BadInput
from primed.training.packing import Sample
from primed.verify.batch import BATCH_MAX_BYTES, Group, MalformedBatch, Rollout, decode_batch
from primed.verify.checks import LOGPROB_MAX, LOGPROB_MIN
from primed.verify.runspec import MICRO, RunSpec


class UnusableBatch(BadInput):
    """A batch that must not be trained on; the message names it and says why."""


@dataclass(frozen=True)
class Lesson:
    """What a step trains on, and the mean reward of all rollouts, groups without spread too."""

    samples: list[Sample]
    reward_mean: float
    rollouts: int


def read(paths: Sequence[Path], spec: RunSpec, environments: Sequence[Environment]) -> Lesson:
    """Samples of all batches in order. Raises UnusableBatch for the first that is not usable."""
    samples: list[Sample] = []
    rewards: list[int] = []
    for path in paths:
        try:
            if path.stat().st_size > BATCH_MAX_BYTES:
                raise MalformedBatch(f"larger than {BATCH_MAX_BYTES} bytes")
            for group in decode_batch(path.read_bytes()).groups:
                rewards += [rollout.reward_micro for rollout in group.rollouts]
                samples += _samples_of(group, spec, environments)
        except (ValueError, OSError) as error:
            raise UnusableBatch(f"batch {path.name}: {error}") from error
    return Lesson(samples, sum(rewards) / max(1, len(rewards)) / MICRO, len(rewards))


def _samples_of(group: Group, spec: RunSpec, environments: Sequence[Environment]) -> list[Sample]:
    if group.environment >= len(environments):
        raise ValueError(f"environment {group.environment} is not one of the run's")
    prompt = environments[group.environment].prompt(group.prompt)
    for rollout in group.rollouts:
        _check(rollout, len(prompt), spec)
    rewards = [rollout.reward_micro for rollout in group.rollouts]
    if not grpo.has_spread(rewards):
        return []
    advantages = grpo.advantages_of(rewards, spec.training.dr_grpo)
    return [
        Sample(
            np.concatenate([prompt, rollout.token_ids]).astype(np.int64),
            len(prompt),
            rollout.logprob_values,
            float(advantage),
        )
        for rollout, advantage in zip(group.rollouts, advantages, strict=True)
    ]


def _check(rollout: Rollout, prompt_tokens: int, spec: RunSpec) -> None:
    tokens, logprobs = rollout.token_ids, rollout.logprob_values
    if len(tokens) > spec.sampling.max_new_tokens:
        raise ValueError(
            f"{len(tokens)} tokens, at most {spec.sampling.max_new_tokens} are asked for"
        )
    if len(tokens) + prompt_tokens > spec.training.max_tokens:
        raise ValueError(f"{len(tokens) + prompt_tokens} tokens do not fit a training row")
    if int(tokens.max()) >= spec.model.config["vocab_size"]:
        raise ValueError("a token lies outside the vocabulary")
    if not np.all((logprobs <= LOGPROB_MAX) & (logprobs >= LOGPROB_MIN)):  # False for NaN too
        raise ValueError("a log-probability is not finite or not possible")
