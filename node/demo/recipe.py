"""The demo's run file: the toy policy of `primed.training.demo`, with the demo's run parameters."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
import tomlkit

from primed.p2p import peerid
from primed.training import demo
from primed.verify.runspec import Parameters, Prices

PARAMETERS = Parameters(
    probation_batches=4,
    audit_rate=0.25,
    vest_batches=4,
    vest_epochs=1,
    epoch_s=15,
    claim_s=1,
    verdict_s=10,
    silent_learner_s=60,
    batches_per_step=2,
    anchor_every=16,
)
PRICES = Prices(budget=10_000_000_000, token=1000, verdict=100_000, version=1_000_000)
OPENED_CHUNKS = 64


def write_run_file(
    path: Path,
    weights: Path,
    learners: Iterable[bytes],
    verifiers: Iterable[bytes],
    steps: int,
    parameters: Parameters = PARAMETERS,
) -> None:
    """A run file as an originator would write it by hand; everybody listed is named in it."""
    listed = [{"peer": peerid.to_text(peer), "role": "learner"} for peer in learners]
    listed += [{"peer": peerid.to_text(peer), "role": "verifier"} for peer in verifiers]
    training = msgspec.structs.replace(demo.TRAINING, max_steps=steps)
    document = {
        "name": "sort-digits",
        "toy": True,
        "model": {
            "architecture": "llama",
            "tokenizer": demo.TOKENIZER,
            "weights": str(weights),
            "config": demo.MODEL,
        },
        "environments": [{"name": demo.ENVIRONMENT}],
        "sampling": msgspec.to_builtins(demo.SAMPLING),
        "proof": msgspec.to_builtins(demo.proof(OPENED_CHUNKS)),
        "training": msgspec.to_builtins(training),
        "parameters": msgspec.to_builtins(parameters),
        "prices": msgspec.to_builtins(PRICES),
        "admission": {"listed": listed},
    }
    path.write_text(tomlkit.dumps(document))
