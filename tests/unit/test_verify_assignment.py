"""Assignment of prompts and seeds: repeatable, separate per worker and counter, by weight."""

from __future__ import annotations

from collections import Counter

import pytest

from primed.verify.assignment import assign
from primed.verify.runspec import (
    Admission,
    Band,
    EnvironmentSpec,
    ModelSpec,
    Parameters,
    Prices,
    ProofSpec,
    RunSpec,
    Sampling,
    Thresholds,
    Training,
)

RUN, WORKER = b"r" * 32, b"w" * 38
SIZES = (7, 1000)
BAND = Band(accept=0, reject=0)
THRESHOLDS = Thresholds(
    sampling_mismatch=BAND, sampling_margin=BAND, proof_distance=BAND, logprob_error=BAND
)


def spec_of(groups: int) -> RunSpec:
    return RunSpec(
        name="test",
        originator=bytes(38),
        created_unix_ms=0,
        model=ModelSpec(architecture="llama", config={}, tokenizer="t", weights=bytes(32)),
        environments=(
            EnvironmentSpec(name="small", digest=bytes(32), weight=1),
            EnvironmentSpec(name="large", digest=bytes(32), weight=3),
        ),
        sampling=Sampling(groups=groups, group_size=4),
        proof=ProofSpec(thresholds=THRESHOLDS),
        training=Training(),
        parameters=Parameters(),
        admission=Admission(),
        prices=Prices(),
    )


def test_assignment_has_fixed_values() -> None:
    """What every node of a run must agree on: a change here is a new protocol version."""
    first = assign(RUN, WORKER, 0, spec_of(2), SIZES)
    assert [(group.environment, group.prompt) for group in first] == [(1, 669), (1, 75)]
    assert first[0].seeds[:2] == (0xB404DBC6F327A5E1, 0x6BE0624E5F817D0B)


def test_assignment_repeats_and_extends() -> None:
    long = assign(RUN, WORKER, 5, spec_of(8), SIZES)
    assert assign(RUN, WORKER, 5, spec_of(8), SIZES) == long
    assert assign(RUN, WORKER, 5, spec_of(3), SIZES) == long[:3]


def test_runs_workers_and_counters_get_other_work() -> None:
    spec = spec_of(4)
    works = [
        assign(RUN, WORKER, 0, spec, SIZES),
        assign(RUN, WORKER, 1, spec, SIZES),
        assign(RUN, b"v" * 38, 0, spec, SIZES),
        assign(b"q" * 32, WORKER, 0, spec, SIZES),
    ]
    seeds = [seed for work in works for group in work for seed in group.seeds]
    assert len(set(seeds)) == len(seeds) == 4 * 4 * 4


def test_environments_come_by_weight_and_prompts_evenly() -> None:
    groups = assign(RUN, WORKER, 0, spec_of(1024), SIZES) + assign(
        RUN, WORKER, 1, spec_of(1024), SIZES
    )
    share = Counter(group.environment for group in groups)
    assert 0.21 < share[0] / len(groups) < 0.29
    prompts = Counter(group.prompt for group in groups if group.environment == 0)
    assert set(prompts) == set(range(7))
    assert max(prompts.values()) < 2 * min(prompts.values())
    assert all(0 <= group.prompt < SIZES[group.environment] for group in groups)
    assert all(0 <= seed < 2**64 for group in groups for seed in group.seeds)


@pytest.mark.parametrize("sizes", [(), (7,), (7, 0), (7, 1000, 3), (-1, 5)])
def test_sizes_that_do_not_fit_are_value_errors(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="sizes"):
        assign(RUN, WORKER, 0, spec_of(2), sizes)
