"""Which prompts a worker answers at a counter, and with which sampling seeds.

Everything is drawn from one extendable output over (run, worker, counter), so that a worker
chooses nothing and anybody repeats the draw (PRIME-RL's fixed data sampling). Order of draws, group
by group: environment by weight, prompt index, then one u64 seed a completion.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from msgspec import Struct

from primed.verify.digests import Xof, u64
from primed.verify.runspec import RunSpec


class AssignedGroup(Struct, frozen=True):
    """One prompt and the seed of each of its completions."""

    environment: int  # index into RunSpec.environments
    prompt: int  # index below the environment's size
    seeds: tuple[int, ...]  # u64 each


def assign(
    run_id: bytes, worker: bytes, counter: int, spec: RunSpec, sizes: Sequence[int]
) -> list[AssignedGroup]:
    """The `sampling.groups` groups of this counter, in the batch's order.

    sizes: number of prompts of each environment. Raises ValueError when they do not fit the spec.
    """
    if len(sizes) != len(spec.environments) or min(sizes) < 1:
        raise ValueError("sizes are not one positive number per environment")
    xof = Xof("assign", run_id, worker, u64(counter))
    upto = list(accumulate(environment.weight for environment in spec.environments))
    groups = []
    for _ in range(spec.sampling.groups):
        environment = bisect_right(upto, xof.below(upto[-1]))
        prompt = xof.below(sizes[environment])
        seeds = tuple(xof.u64() for _ in range(spec.sampling.group_size))
        groups.append(AssignedGroup(environment, prompt, seeds))
    return groups
