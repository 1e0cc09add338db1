"""RunSpec: everything a run fixes for all of its participants, signed once by its originator.

The run id is the digest of the signed bytes. A RunSpec arrives from a peer, so `decode_run` bounds
and validates it completely; after that the rest of the code trusts its fields.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from primed.verify import signing
from primed.verify.digests import digest

Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
Peer = Annotated[bytes, Meta(min_length=38, max_length=38)]
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[\w.\-]+$")]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Positive = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Role = Literal["originator", "worker", "learner", "verifier", "auditor", "relay"]

RUNSPEC_MAX_BYTES = 64 * 1024
MICRO = 1_000_000  # rewards and prices are integers in millionths


class ModelSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A causal language model built from a local class: no code, no pickle, weights by digest."""

    architecture: Literal["llama"]
    config: dict[Name, int | float | bool]  # keyword arguments of the class's configuration
    tokenizer: Name  # name of an installed tokenizer
    weights: Digest  # weights digest of the base checkpoint (bf16)


class EnvironmentSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An installed environment (entry point group `primed.environments`) and its share of prompts."""

    name: Name
    digest: Digest
    weight: Annotated[int, Meta(ge=1, le=1_000_000)] = 1


class Sampling(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How completions are sampled; no top-k or top-p, which cannot be replayed."""

    groups: Annotated[int, Meta(ge=1, le=1024)] = 16  # groups a batch
    group_size: Annotated[int, Meta(ge=1, le=1024)] = 16  # completions a prompt
    max_new_tokens: Annotated[int, Meta(ge=1, le=1 << 17)] = 1024
    temperature: Annotated[float, Meta(ge=0, le=4)] = 1.0


class Band(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Two-sided threshold of a pooled statistic: accept at or below, reject above, else neither."""

    accept: Annotated[float, Meta(ge=0)]
    reject: Annotated[float, Meta(ge=0)]


class Thresholds(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Calibrated for one model, profile and verifier engine (primed.training.calibration)."""

    sampling_mismatch: Band  # share of tokens that are not their own noisy argmax
    sampling_margin: Band  # mean capped margin by which they lose, in logits
    proof_distance: Band  # mean capped ULP distance of the proof at the verifier's top places
    logprob_error: Band  # mean absolute error of the stated log-probabilities


class ProofSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """TOPLOC parameters: k top values of each chunk of `chunk_tokens` rows."""

    k: Annotated[int, Meta(ge=1, le=1024)] = 128
    chunk_tokens: Annotated[int, Meta(ge=1, le=1024)] = 32
    opened_chunks: Annotated[int, Meta(ge=1, le=1 << 20)] = 64  # chunks a verifier opens a batch
    thresholds: Thresholds


class Training(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The learner's optimiser and loss (two-sided GRPO)."""

    lr: Annotated[float, Meta(gt=0, le=1)] = 1e-6
    beta1: Fraction = 0.9
    beta2: Fraction = 0.99
    weight_decay: Annotated[float, Meta(ge=0, le=1)] = 0.0
    warmup_steps: Count = 5
    grad_clip: Annotated[float, Meta(gt=0)] = 1.0
    kl: Annotated[float, Meta(ge=0, le=10)] = 0.001
    eps_low: Fraction = 0.2
    eps_high: Fraction = 0.2
    delta: Annotated[float, Meta(gt=1)] = 4.0
    dr_grpo: bool = False
    max_tokens: Annotated[int, Meta(ge=16)] = 8192  # tokens a packed row
    max_steps: Count = 0  # 0: no end


class Parameters(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Protocol constants of the run (algorithms.md section 4, "Run parameters")."""

    max_staleness: Annotated[int, Meta(ge=0, le=64)] = 4
    batches_per_step: Annotated[int, Meta(ge=1, le=64)] = 1
    probation_batches: Annotated[int, Meta(ge=0, le=10_000)] = 20
    audit_rate: Fraction = 0.05
    vest_batches: Annotated[int, Meta(ge=0, le=100_000)] = 64
    vest_epochs: Annotated[int, Meta(ge=0, le=10_000)] = 3
    epoch_s: Seconds = 600.0
    claim_s: Seconds = 10.0
    verdict_s: Seconds = 120.0
    silent_learner_s: Seconds = 600.0
    anchor_every: Annotated[int, Meta(ge=1, le=10_000)] = 16  # steps between full snapshots
    exclude_after: Annotated[int, Meta(ge=1, le=1000)] = 2
    exclude_window_batches: Annotated[int, Meta(ge=1, le=100_000)] = 64
    duplicate_min_tokens: Annotated[int, Meta(ge=1)] = 32


class Listed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key the originator admits to a role, with its share of the role's weight."""

    peer: Peer
    role: Role
    weight: Annotated[int, Meta(ge=1, le=1_000_000)] = 1


class Admission(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may hold a role. Verifiers and learners are listed unless the run says otherwise."""

    worker: Literal["open", "listed"] = "open"
    verifier: Literal["open", "listed"] = "listed"
    learner: Literal["listed"] = "listed"
    listed: Annotated[tuple[Listed, ...], Meta(max_length=1024)] = ()


class Prices(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What accepted work earns, in micro-credits, until the budget is spent."""

    budget: Count = 0
    token: Count = 1
    verdict: Count = 0
    version: Count = 0


class RunSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name
    originator: Peer
    created_unix_ms: Count
    model: ModelSpec
    environments: Annotated[tuple[EnvironmentSpec, ...], Meta(min_length=1, max_length=64)]
    sampling: Sampling
    proof: ProofSpec
    training: Training
    parameters: Parameters
    admission: Admission
    prices: Prices
    closing: Literal["originator"] = "originator"
    toy: bool = False  # a demonstration run; the only kind a dishonest engine can be started in


class SignedRun(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The exact signed bytes of a RunSpec and the originator's signature (domain `run`)."""

    spec: Annotated[bytes, Meta(max_length=RUNSPEC_MAX_BYTES)]
    signature: Signature


class Run(Struct, frozen=True):
    """A verified RunSpec with its id."""

    run_id: bytes
    spec: RunSpec
    signed: SignedRun

    def peers(self, role: Role) -> dict[bytes, int]:
        """Listed keys of a role and their weights, in peer order."""
        found = {
            entry.peer: entry.weight for entry in self.spec.admission.listed if entry.role == role
        }
        return dict(sorted(found.items()))


def run_id_of(spec_bytes: bytes) -> bytes:
    return digest("run", spec_bytes)


def sign_run(spec: RunSpec, sign: signing.Signer) -> Run:
    """Encode and sign. Deterministic for equal specs (msgspec encodes fields in order)."""
    body = msgspec.msgpack.encode(spec)
    signed = SignedRun(body, sign(signing.message_to_sign("run", body)))
    return decode_run(signed)


def decode_run(signed: SignedRun) -> Run:
    """Verify a RunSpec from a peer. Raises ValueError with the reason."""
    if len(signed.spec) > RUNSPEC_MAX_BYTES:
        raise ValueError(f"RunSpec larger than {RUNSPEC_MAX_BYTES} bytes")
    try:
        spec = msgspec.msgpack.decode(signed.spec, type=RunSpec)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"RunSpec does not decode: {error}") from error
    if not signing.is_signed_by(spec.originator, "run", signed.spec, signed.signature):
        raise ValueError("RunSpec is not signed by its originator")
    if not _is_finite(msgspec.to_builtins(spec)):
        raise ValueError("RunSpec holds a number that is not finite")
    return Run(run_id_of(signed.spec), spec, signed)


def _is_finite(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_finite, value))
    return True
