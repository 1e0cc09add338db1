"""Thresholds by measurement: what honest and dishonest batches look like to a verifier.

The policy moves while it is measured: a learner trains on the batches, so that the figures cover
sharpened policies too. Every batch is generated twice, by an honest engine and by the dishonest
one, and measured by the prefill. The bands are then put between the honest worst and the
dishonest best: accept at twice the honest worst plus a floor, reject at a quarter of the dishonest
best, always accept < reject; Uncalibratable if the two do not leave room for that.

`python -m primed.training.calibration --out thresholds.json` (the demo's model).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import torch

from primed.training import recipe
from primed.verify.runspec import Band, Thresholds

STATISTICS = tuple(field.name for field in msgspec.structs.fields(Thresholds))
HONEST_FACTOR = 2.0
DISHONEST_FACTOR = 0.25
# Another kernel's rounding moves near-ties and last bits even where this one showed none.
FLOORS = {
    "sampling_mismatch": 0.02,
    "sampling_margin": 0.01,
    "proof_distance": 1.0,
    "logprob_error": 0.01,
}

Measurements = Mapping[str, float]


class Uncalibratable(ValueError):
    """Honest and dishonest batches cannot be told apart by this statistic."""


def bands(honest: Iterable[Measurements], dishonest: Iterable[Measurements]) -> Thresholds:
    """Thresholds between the two. Raises Uncalibratable."""
    honest, dishonest = list(honest), list(dishonest)
    chosen = {}
    for name in STATISTICS:
        worst = max(measured[name] for measured in honest)
        best = min(measured[name] for measured in dishonest)
        accept, reject = HONEST_FACTOR * worst + FLOORS[name], DISHONEST_FACTOR * best
        if accept >= reject:
            raise Uncalibratable(f"{name}: honest up to {worst:.4g}, dishonest from {best:.4g}")
        chosen[name] = Band(accept=round(accept, 6), reject=round(reject, 6))
    return Thresholds(**chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description="calibrate the demo's thresholds")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=80)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    honest: list[Measurements] = []
    dishonest: list[Measurements] = []
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            for record in recipe.play(Path(folder), seed, arguments.steps, cheat=True):
                honest += record.honest
                dishonest += record.dishonest
    thresholds = bands(honest, dishonest)
    arguments.out.write_bytes(msgspec.json.format(msgspec.json.encode(thresholds)) + b"\n")
    print(json.dumps(_report(honest, dishonest) | {"seconds": time.process_time() - began}))


def _report(honest: list[Measurements], dishonest: list[Measurements]) -> dict[str, object]:
    return {
        "batches_honest": len(honest),
        "batches_dishonest": len(dishonest),
        "honest_worst": {name: max(m[name] for m in honest) for name in STATISTICS},
        "dishonest_best": {name: min(m[name] for m in dishonest) for name in STATISTICS},
    }


if __name__ == "__main__":
    main()
