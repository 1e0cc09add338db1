"""The demo's recipe in one process: engine, learner and verifier as they are, without a network.

Two batches of 8 × 16 a step, each from a version one to four steps old, as in a swarm that is never
in step. For calibration, for the lab book, and to see quickly whether a change still learns:

`python -m primed.training.recipe --seed 0` prints one JSON line a step and one at the end.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from primed.training import context, demo, models, rollouts, verification, warmstart, weights
from primed.training.context import RunContext
from primed.training.dishonest import DishonestEngine
from primed.training.learner import Learner, StepFiles, StepResult
from primed.training.torch_engine import TorchEngine
from primed.verify import judgement
from primed.verify.batch import Batch, encode_batch
from primed.verify.digests import digest
from primed.verify.runspec import Band, Thresholds
from primed.verify.signing import peer_id_of

BATCHES_PER_STEP = 2
LAG = (1, 4)
REACHED = 0.8  # mean exact reward of five steps
_UNCALIBRATED = Band(accept=0.0, reject=1e9)


@dataclass
class Record:
    """One step: its reward, what the learner said, CPU seconds, measurements of its batches."""

    step: int
    reward: float
    result: StepResult
    generate_s: float = 0.0  # a batch
    train_s: float = 0.0  # a step
    verify_s: float = 0.0  # a batch
    honest: list[dict[str, float]] = field(default_factory=list)
    dishonest: list[dict[str, float]] = field(default_factory=list)


def play(folder: Path, seed: int, steps: int, *, cheat: bool = False) -> Iterator[Record]:
    """Make `steps` steps from a fresh warm start; every batch is measured, and with `cheat` so is
    the dishonest engine's batch of the same counter. Files stay in `folder`."""
    weights.write(folder / "0.weights", models.policy_of(warmstart.make(seed)))
    thresholds = Thresholds(**dict.fromkeys(Thresholds.__struct_fields__, _UNCALIBRATED))
    spec = demo.run_spec(peer_id_of(bytes(32)), bytes(32), thresholds=thresholds)
    run = context.of(spec, digest("run", seed.to_bytes(8, "big")))
    learner, draw = Learner(spec, run.environments), random.Random(seed)
    for step in range(1, steps + 1):
        yield _step(folder, run, learner, step, draw, cheat)


def _step(
    folder: Path, run: RunContext, learner: Learner, step: int, draw: random.Random, cheat: bool
) -> Record:
    record = Record(step, 0.0, StepResult(b"", 0, {}, ""))
    paths = []
    for n in range(BATCHES_PER_STEP):
        version = max(0, step - 1 - draw.randint(*LAG))
        batch = _measured_batch(folder, run, version, BATCHES_PER_STEP * step + n, record, cheat)
        paths.append(folder / f"{step}.{n}.batch")
        paths[-1].write_bytes(encode_batch(batch))
    began = time.process_time()
    files = StepFiles(
        parent=folder / f"{step - 1}.weights",
        reference=folder / "0.weights",
        state=folder / f"{step - 1}.state" if step > 1 else None,
        batches=paths,
        out_state=folder / f"{step}.state",
        out_weights=folder / f"{step}.weights",
        out_delta=folder / f"{step}.delta",
    )
    record.result = learner.step(step, files)
    record.train_s = time.process_time() - began
    record.reward = record.result.metrics["reward_mean"]
    return record


def _measured_batch(
    folder: Path, run: RunContext, version: int, counter: int, record: Record, cheat: bool
) -> Batch:
    spec, eos = run.spec, run.facts.eos
    worker, path = spec.originator, folder / f"{version}.weights"
    engine = TorchEngine(spec.model, spec.proof, eos)
    engine.load(path)
    began = time.process_time()
    batch = rollouts.generate(engine, run, worker, counter, bytes(32))
    record.generate_s += (time.process_time() - began) / BATCHES_PER_STEP
    began = time.process_time()
    record.honest.append(_measure(engine, run, batch, counter))
    record.verify_s += (time.process_time() - began) / BATCHES_PER_STEP
    if cheat:
        other = DishonestEngine(spec, eos)
        other.load(path)
        lie = rollouts.generate(other, run, worker, counter, bytes(32))
        record.dishonest.append(_measure(engine, run, lie, counter))
    return batch


def _measure(engine: TorchEngine, run: RunContext, batch: Batch, counter: int) -> dict[str, float]:
    opened = random.Random(counter).sample(
        range(batch.total_chunks), min(batch.total_chunks, run.spec.proof.opened_chunks)
    )
    return verification.measure(engine, run, batch, opened)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description="the demo's recipe in one process")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=80)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    rewards: list[float] = []
    outcomes: list[str] = []
    reached = 0
    with tempfile.TemporaryDirectory() as folder:
        for record in play(Path(folder), arguments.seed, arguments.steps):
            rewards.append(record.reward)
            outcomes += [judgement.judge(m, demo.shipped_thresholds())[0] for m in record.honest]
            print(json.dumps(_line(record)), flush=True)
            if not reached and sum(rewards[-5:]) / 5 >= REACHED:
                reached = record.step
    accepted = outcomes.count("accept") / len(outcomes)
    final = sum(rewards[-5:]) / len(rewards[-5:])
    print(json.dumps({"reached_step": reached, "reward_last": final, "accepted": accepted}))


def _line(record: Record) -> dict[str, object]:
    return {
        "step": record.step,
        "reward": round(record.reward, 4),
        "generate_s": round(record.generate_s, 3),
        "verify_s": round(record.verify_s, 3),
        "train_s": round(record.train_s, 3),
        "delta_bytes": record.result.delta_bytes,
        "alarm": record.result.alarm,
        **{name: round(value, 4) for name, value in record.result.metrics.items()},
    }


if __name__ == "__main__":
    main()
