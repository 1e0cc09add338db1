"""The learner: exact resume (scenario 38), and nothing that is not finite moves it (scenario 34)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from primed.training import deltas, models, weights
from primed.training.context import RunContext
from primed.training.errors import BadInput
from primed.training.learner import Learner, StepFiles, StepRefused
from primed.training.lessons import UnusableBatch
from primed.verify.batch import Batch
from primed.verify.runspec import MICRO
from tests.unit.training_runs import (
    batch_of,
    run_context,
    run_spec,
    write_batch,
    write_weights,
)


@pytest.fixture
def run() -> RunContext:
    torch.set_num_threads(1)
    return run_context(run_spec())


def spread(batch: Batch) -> Batch:
    """The batch as if every second answer had been right: something to learn from."""
    groups = []
    for group in batch.groups:
        rewarded = tuple(
            msgspec.structs.replace(rollout, reward_micro=MICRO * (i % 2))
            for i, rollout in enumerate(group.rollouts)
        )
        groups.append(msgspec.structs.replace(group, rollouts=rewarded))
    return msgspec.structs.replace(batch, groups=tuple(groups))


def files_of(folder: Path, run: RunContext, step: int, out: str = "") -> StepFiles:
    """Files of a step whose parent is in `folder`; its batch is generated from the parent."""
    parent = folder / f"{step - 1}.weights"
    if step == 1 and not parent.exists():
        write_weights(parent, run.spec)
    batch = write_batch(folder / f"{step}.batch", spread(batch_of(run, parent, step)))
    return StepFiles(
        parent=parent,
        reference=folder / "0.weights",
        state=folder / f"{step - 1}.state" if step > 1 else None,
        batches=[batch],
        out_state=folder / f"{step}{out}.state",
        out_weights=folder / f"{step}{out}.weights",
        out_delta=folder / f"{step}{out}.delta",
    )


def outputs(files: StepFiles) -> list[bytes]:
    return [path.read_bytes() for path in (files.out_state, files.out_weights, files.out_delta)]


def test_a_step_repeated_by_a_new_learner_gives_the_same_bits(
    tmp_path: Path, run: RunContext
) -> None:
    """Scenario 38: killed between steps, or in one, and started again from its files."""
    learner = Learner(run.spec, run.environments)
    results = []
    for step in (1, 2, 3):
        files = files_of(tmp_path, run, step)
        results.append(learner.step(step, files))
    again = files_of(tmp_path, run, 3, out="-again")
    repeated = Learner(run.spec, run.environments).step(3, again)
    assert repeated == results[2]
    assert outputs(again) == outputs(files_of(tmp_path, run, 3))
    assert results[2].weights == weights.digest_of_file(tmp_path / "3.weights")
    assert results[2].metrics["grad_norm"] > 0
    made = tmp_path / "from-delta"
    deltas.apply(tmp_path / "2.weights", tmp_path / "3.delta", made, results[2].weights)
    assert made.read_bytes() == (tmp_path / "3.weights").read_bytes()


def test_published_weights_are_the_master_rounded(tmp_path: Path, run: RunContext) -> None:
    files = files_of(tmp_path, run, 1)
    Learner(run.spec, run.environments).step(1, files)
    state, about = weights.read(files.out_state)
    published, _ = weights.read(files.out_weights)
    assert about["step"] == "1"
    for name, tensor in published.items():
        assert np.array_equal(models.as_bf16(models.as_float(state[f"master.{name}"])), tensor)
    assert any(np.any(state[f"v.{name}"]) for name in published)


def test_a_step_raises_what_was_rewarded(tmp_path: Path, run: RunContext) -> None:
    """On one batch over and over, the rewarded half becomes likelier: the surrogate rises."""
    learner, losses = Learner(run.spec, run.environments), []
    files = files_of(tmp_path, run, 1)
    for step in range(1, 6):
        following = files_of(tmp_path, run, step)
        losses.append(learner.step(step, replace(following, batches=files.batches)))
    assert losses[-1].metrics["loss"] < losses[0].metrics["loss"] - 0.01


def with_logprobs(batch: Batch, values: Callable[[np.ndarray], np.ndarray]) -> Batch:
    group = batch.groups[-1]
    changed = values(group.rollouts[0].logprob_values.copy()).astype("<f4").tobytes()
    first = msgspec.structs.replace(group.rollouts[0], logprobs=changed)
    last = msgspec.structs.replace(group, rollouts=(first, *group.rollouts[1:]))
    return msgspec.structs.replace(batch, groups=(*batch.groups[:-1], last))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1e30, 0.5])
def test_an_impossible_logprob_never_moves_the_learner(
    tmp_path: Path, run: RunContext, bad: float
) -> None:
    """Scenario 34: refused with the batch's name, every parameter the same bit for bit."""
    learner = Learner(run.spec, run.environments)
    learner.step(1, files_of(tmp_path, run, 1))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    files = files_of(tmp_path, run, 2)
    good = spread(batch_of(run, files.parent, 2))
    poisoned = with_logprobs(good, lambda values: np.where(values == values[0], bad, values))
    path = write_batch(tmp_path / "poisoned.batch", poisoned)
    with pytest.raises(UnusableBatch, match=r"poisoned\.batch.*log-probability"):
        learner.step(2, replace(files, batches=[*files.batches, path]))
    after = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.name in before}
    assert after == before
    assert not files.out_state.exists() and not files.out_weights.exists()
    made = learner.step(2, files)  # and goes on as if nothing had been
    fresh = files_of(tmp_path, run, 2, out="-fresh")
    assert Learner(run.spec, run.environments).step(2, fresh) == made
    assert outputs(fresh) == outputs(files)


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\x96" * 500, b"\x96\xc4\x20", b"\x96\xc4\x20" + bytes(32)]
)
def test_bytes_that_are_no_batch_are_named(tmp_path: Path, run: RunContext, data: bytes) -> None:
    files = files_of(tmp_path, run, 1)
    (tmp_path / "rubbish.batch").write_bytes(data)
    with pytest.raises(UnusableBatch, match=r"rubbish\.batch"):
        Learner(run.spec, run.environments).step(
            1, replace(files, batches=[tmp_path / "rubbish.batch"])
        )


def test_a_step_that_is_not_finite_is_refused(tmp_path: Path, run: RunContext) -> None:
    """Weights so large that the forward pass overflows: no file is written."""
    files = files_of(tmp_path, run, 1)
    huge = {name: np.full_like(t, 0x7F00) for name, t in weights.read(files.parent)[0].items()}
    weights.write(tmp_path / "huge.weights", huge)
    with pytest.raises(StepRefused, match="not finite"):
        Learner(run.spec, run.environments).step(
            1, replace(files, parent=tmp_path / "huge.weights")
        )
    assert not files.out_state.exists() and not files.out_delta.exists()


def test_a_state_of_another_step_or_version_is_refused(tmp_path: Path, run: RunContext) -> None:
    learner = Learner(run.spec, run.environments)
    first = files_of(tmp_path, run, 1)
    learner.step(1, first)
    second = files_of(tmp_path, run, 2)
    with pytest.raises(BadInput, match="after step 2"):
        learner.step(3, second)
    with pytest.raises(BadInput, match="not the state behind"):
        learner.step(2, replace(second, parent=first.parent))
    with pytest.raises(BadInput):
        learner.step(2, replace(second, state=first.out_weights))


def test_batches_without_spread_are_counted_and_teach_nothing(
    tmp_path: Path, run: RunContext
) -> None:
    files = files_of(tmp_path, run, 1)
    flat = write_batch(tmp_path / "flat.batch", batch_of(run, files.parent, 1))
    result = Learner(run.spec, run.environments).step(1, replace(files, batches=[flat]))
    assert result.metrics["tokens"] == 0 and result.metrics["grad_norm"] == 0
    assert result.weights == weights.digest_of_file(files.parent), "no momentum yet: no movement"
