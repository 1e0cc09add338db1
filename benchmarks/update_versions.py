"""Versions of SmolLM2 for `benchmarks.update`, and how large their deltas are.

Two learners go the same way with other rollouts: rounds of H optimiser steps, then a mix. Measured
are the last steps of each round and the mixes of one of them. Masters begin anywhere within their
rounding intervals, as after many steps: from the checkpoint itself, whose masters are bf16 numbers,
hardly any would leave theirs in the first steps.
"""

from __future__ import annotations

import time
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import native_deltas, smollm, update_learner, update_rollouts
from benchmarks.update_learner import Learner
from primed.training import deltas, weights

RATES = {"lr1e-6": 1e-6, "lr3e-6": 3e-6, "lr1e-5": 1e-5}
WARM_STEPS, ROUNDS, H, MEASURED = 16, 2, 4, 2
WARM_SEED, SEEDS, START_SEED = 1, (2, 3), 4


class Workshop:
    """Files of versions under `folder`; rollouts and the optimiser's warm moments are made once."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        self.folder = folder
        self._base = weights.read(smollm.files()[0])[0]

    @cached_property
    def _groups(self) -> list[update_rollouts.Group]:
        return update_rollouts.groups()

    @cached_property
    def _warm(self) -> Learner:
        """Moments as after WARM_STEPS; the weights did not move meanwhile."""
        warm = Learner(self.folder / "warm")
        warm.begin(update_learner.exact(self._base))
        self._step(warm, update_rollouts.lessons(self._groups, WARM_SEED), WARM_STEPS, 0.0)
        return warm

    def measure(self, name: str) -> dict[str, Any]:
        """Sizes at one learning rate. Leaves `<name>-old`, `-new`, `-step` (a delta) and `-mix`
        (the delta that follows) behind."""
        pair = (Learner(self.folder / "one"), Learner(self.folder / "other"))
        start = update_learner.settled(self._base, START_SEED)
        for one in pair:
            one.begin(start, self._warm)
        ways = [update_rollouts.lessons(self._groups, seed) for seed in SEEDS]
        steps, mixes = [], []
        for _ in range(ROUNDS):
            self._step(pair[1], ways[1], H, RATES[name])
            steps += self._steps(name, pair[0], ways[0])
            update_learner.mix(pair)
            mixes.append(self._delta(name, "new", pair[0].write(self._file(name, "mixed")), "mix"))
        return {"steps": steps, "mixes": mixes}

    def _steps(self, name: str, one: Learner, way: update_rollouts.Lessons) -> list[dict[str, Any]]:
        """A round; sizes of its last steps."""
        found = []
        for number, _ in enumerate(one.step(way, H, RATES[name])):
            if number >= H - MEASURED:
                if number > H - MEASURED + 1:
                    self._file(name, "new").replace(self._file(name, "old"))
                first = number == H - MEASURED
                written = one.write(self._file(name, "old" if first else "new"))
                if not first:
                    found.append(self._delta(name, "old", written, "step"))
        return found

    def _step(self, one: Learner, way: update_rollouts.Lessons, count: int, lr: float) -> None:
        for _ in one.step(way, count, lr):
            pass

    def _delta(self, name: str, old: str, new: Path, out: str) -> dict[str, Any]:
        before, began = self._file(name, old), time.process_time()
        delta_bytes = deltas.encode(before, new, self._file(name, out))
        cpu_s = time.process_time() - began
        rows = _row(before), _row(new)
        return {
            "full_bytes": new.stat().st_size,
            "delta_bytes": delta_bytes,
            "gap_zstd_bytes": native_deltas.gap_zstd_bytes(*rows),
            "changed_percent": 100 * float((rows[0] != rows[1]).mean()),
            "encode_cpu_s": round(cpu_s, 2),
            "weights": weights.digest_of_file(new).hex(),
        }

    def _file(self, name: str, what: str) -> Path:
        return self.folder / f"{name}-{what}"


def _row(path: Path) -> NDArray[np.uint16]:
    return np.concatenate([t.reshape(-1) for _, t in sorted(weights.read(path)[0].items())])
