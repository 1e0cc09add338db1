"""One batch of rollouts: assigned prompts, generated, scored and put in the form that travels.

The worker chooses nothing: prompts and seeds follow from (run, worker, counter). Every group is
listed, with or without spread (algorithms.md section 1, "Group").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from primed.training.context import RunContext
from primed.training.engine import Completion, Engine
from primed.verify.assignment import AssignedGroup, assign
from primed.verify.batch import Batch, Group, Rollout


def generate(
    engine: Engine, context: RunContext, worker: bytes, counter: int, version: bytes
) -> Batch:
    """The batch of this counter from the version that the engine has loaded."""
    assigned = assign(context.run_id, worker, counter, context.spec, context.sizes)
    prompts: list[list[int]] = []
    seeds: list[int] = []
    for group in assigned:
        prompt = context.environments[group.environment].prompt(group.prompt)
        prompts += [prompt] * len(group.seeds)
        seeds += group.seeds
    sampling = context.spec.sampling
    completions = iter(
        engine.generate(prompts, seeds, sampling.max_new_tokens, sampling.temperature)
    )
    groups = tuple(_group_of(group, completions, context) for group in assigned)
    return Batch(context.run_id, worker, counter, version, engine.profile, groups)


def reward_mean_micro(batch: Batch) -> float:
    """Mean stated reward, in millionths."""
    rewards = [rollout.reward_micro for _, _, _, rollout in batch.rollouts()]
    return sum(rewards) / len(rewards)


def prompts_and_completions(
    batch: Batch, context: RunContext
) -> tuple[list[list[int]], list[Sequence[int]]]:
    """Token ids of each rollout's prompt and completion, in commitment order."""
    prompts, completions = [], []
    for group in batch.groups:
        prompt = context.environments[group.environment].prompt(group.prompt)
        for rollout in group.rollouts:
            prompts.append(prompt)
            completions.append(rollout.token_ids.tolist())
    return prompts, completions


def _group_of(
    group: AssignedGroup, completions: Iterator[Completion], context: RunContext
) -> Group:
    rollouts = tuple(
        _rollout_of(next(completions), group, context) for _ in range(len(group.seeds))
    )
    return Group(group.environment, group.prompt, rollouts)


def _rollout_of(completion: Completion, group: AssignedGroup, context: RunContext) -> Rollout:
    ids, finished = completion.ids, completion.finished
    return Rollout(
        ids.astype("<u4").tobytes(),
        completion.logprobs.astype("<f4").tobytes(),
        completion.proofs,
        context.score(group.environment, group.prompt, ids, finished),
        finished,
    )
