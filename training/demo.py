"""The demo's numbers: a toy policy that learns to sort four digits (algorithms.md section 1).

Hidden 96, two layers, 224k parameters: 128 rollouts take a fraction of a CPU second. Plain data
without torch, for whoever builds the demo's RunSpec; thresholds come from
`python -m primed.training.calibration`, whose last result ships as demo_thresholds.json.
"""

from __future__ import annotations

from importlib.resources import files

import msgspec

from primed.training import environments
from primed.verify.runspec import (
    Admission,
    ModelSpec,
    Parameters,
    Prices,
    ProofSpec,
    RunSpec,
    Sampling,
    Thresholds,
    Training,
)

ENVIRONMENT = "sort-digits"
TOKENIZER = "characters-26"
MODEL: dict[str, int | float | bool] = {
    "vocab_size": 26,
    "hidden_size": 96,
    "intermediate_size": 288,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SAMPLING = Sampling(groups=8, group_size=16, max_new_tokens=6, temperature=1.0)
TRAINING = Training(lr=3e-4, beta2=0.99, warmup_steps=5, kl=0.001, max_tokens=256)
K = 16  # top values a proof; a chunk of six rows has 576


def model(weights: bytes) -> ModelSpec:
    """The toy policy with this weights digest (see primed.training.warmstart)."""
    return ModelSpec(architecture="llama", config=MODEL, tokenizer=TOKENIZER, weights=weights)


def shipped_thresholds() -> Thresholds:
    """The shipped calibration of the toy policy on the embedded engine."""
    data = files("primed.training").joinpath("demo_thresholds.json").read_bytes()
    return msgspec.json.decode(data, type=Thresholds)


def proof(opened_chunks: int = 64, thresholds: Thresholds | None = None) -> ProofSpec:
    return ProofSpec(
        k=K, opened_chunks=opened_chunks, thresholds=thresholds or shipped_thresholds()
    )


def run_spec(
    originator: bytes,
    weights: bytes,
    *,
    name: str = "sort-digits",
    created_unix_ms: int = 0,
    parameters: Parameters | None = None,
    admission: Admission | None = None,
    prices: Prices | None = None,
    thresholds: Thresholds | None = None,
) -> RunSpec:
    """A toy run of this task; thresholds default to the shipped ones. Raises BadConfig if the
    environment is not installed."""
    return RunSpec(
        name=name,
        originator=originator,
        created_unix_ms=created_unix_ms,
        model=model(weights),
        environments=(environments.load(ENVIRONMENT).spec(),),
        sampling=SAMPLING,
        proof=proof(thresholds=thresholds),
        training=TRAINING,
        parameters=parameters or Parameters(),
        admission=admission or Admission(),
        prices=prices or Prices(),
        toy=True,
    )
