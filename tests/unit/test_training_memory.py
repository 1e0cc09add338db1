"""Scenario 15, the child's side: what is computed at once changes memory, not the contribution; a
child without room on the disk says `disk` and leaves the last good file (scenario 12)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from primed.training import packing, weights
from primed.training.context import RunContext
from primed.training.learner import Learner, StepFiles
from primed.training.rollouts import generate
from primed.verify.digests import digest

from .test_training_learner import files_of
from .training_runs import WORKER, loaded_engine, run_context, run_spec, write_weights


@pytest.fixture
def run() -> RunContext:
    torch.set_num_threads(1)
    return run_context(run_spec(groups=2, group_size=8))


def test_rollouts_are_the_same_however_many_are_decoded_at_once(
    tmp_path: Path, run: RunContext
) -> None:
    engine = loaded_engine(run.spec, write_weights(tmp_path / "w", run.spec))
    version = digest("version", b"0")
    whole = generate(engine, run, WORKER, 3, version)
    for rows in (1, 3):
        engine.rows_max = rows
        parts = generate(engine, run, WORKER, 3, version)
        assert [r.tokens for *_, r in parts.rollouts()] == [r.tokens for *_, r in whole.rollouts()]
        assert parts.total_chunks == whole.total_chunks


def test_a_step_in_small_pieces_moves_the_weights_alike(
    tmp_path: Path, run: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, int]] = []
    real = packing.pack

    def noted(rows: list[list[packing.Sample]]) -> packing.Packed:
        packed = real(rows)
        shapes.append((packed.ids.shape[0], packed.ids.shape[1]))
        return packed

    monkeypatch.setattr(packing, "pack", noted)
    results = []
    for tokens in (16_384, 64, 1):
        files = replace(files_of(tmp_path, run, 1, out=f"-{tokens}"), forward_tokens=tokens)
        results.append((Learner(run.spec, run.environments).step(1, files), files))
        largest = max(rows * width for rows, width in shapes)
        longest = max(width for _, width in shapes)
        assert largest <= max(tokens, longest)
        shapes.clear()
    (whole, whole_files), *others = results
    for made, files in others:
        assert made.metrics["tokens"] == whole.metrics["tokens"]
        assert made.metrics["loss"] == pytest.approx(whole.metrics["loss"], abs=1e-5)
        assert made.metrics["grad_norm"] == pytest.approx(whole.metrics["grad_norm"], rel=1e-3)
        assert _differ(files, whole_files) < 0.02


def _differ(one: StepFiles, other: StepFiles) -> float:
    """Share of bf16 weights that differ: sums in another order move a few roundings."""
    a, _ = weights.read(one.out_weights)
    b, _ = weights.read(other.out_weights)
    wrong = sum(int(np.count_nonzero(a[name] != b[name])) for name in a)
    return wrong / sum(tensor.size for tensor in a.values())
