"""A small run and its base checkpoint for the tests of training/: real files, nothing pretended."""

from __future__ import annotations

from pathlib import Path

from primed.training import context, demo, models, rollouts, weights
from primed.training.context import RunContext
from primed.training.torch_engine import TorchEngine
from primed.verify.batch import Batch, encode_batch
from primed.verify.digests import digest
from primed.verify.runspec import Band, RunSpec, Sampling, Thresholds
from primed.verify.signing import peer_id_of

WORKER = peer_id_of(bytes([7]) * 32)
LOOSE = Thresholds(
    sampling_mismatch=Band(accept=0.02, reject=0.06),
    sampling_margin=Band(accept=0.01, reject=0.1),
    proof_distance=Band(accept=1.0, reject=6.0),
    logprob_error=Band(accept=0.01, reject=0.1),
)


def run_spec(groups: int = 2, group_size: int = 4, **changes: object) -> RunSpec:
    import msgspec

    spec = demo.run_spec(peer_id_of(bytes(32)), bytes(32), thresholds=LOOSE)
    sampling = Sampling(groups=groups, group_size=group_size, max_new_tokens=6)
    return msgspec.structs.replace(spec, sampling=sampling, **changes)


def run_context(spec: RunSpec) -> RunContext:
    return context.of(spec, digest("run", b"a run of the tests"))


def write_weights(path: Path, spec: RunSpec, seed: int = 0) -> Path:
    """A policy whose logits are spread enough for rewards and tokens to differ."""
    model = models.initialise(spec.model, seed)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(5.0)
    weights.write(path, models.policy_of(model))
    return path


def loaded_engine(spec: RunSpec, path: Path) -> TorchEngine:
    engine = TorchEngine(spec.model, spec.proof, eos=2)
    engine.load(path)
    return engine


def batch_of(run: RunContext, weights_path: Path, counter: int = 0) -> Batch:
    engine = loaded_engine(run.spec, weights_path)
    return rollouts.generate(engine, run, WORKER, counter, digest("version", b"0"))


def write_batch(path: Path, batch: Batch) -> Path:
    path.write_bytes(encode_batch(batch))
    return path
