"""Who takes part in a simulated run: identities, roles, lines; and the RunSpec they share."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from primed.p2p.identity import Identity
from primed.p2p.simnet import Access
from primed.training import environments
from primed.verify.digests import digest, u64
from primed.verify.runspec import (
    Admission,
    Band,
    EnvironmentSpec,
    Listed,
    ModelSpec,
    Parameters,
    Prices,
    ProofSpec,
    Role,
    Run,
    RunSpec,
    Sampling,
    Thresholds,
    Training,
    sign_run,
)

from .model import CONFIG, write_base

Vice = Literal["", "model", "copy", "equivocate", "replay", "lie", "slander", "garbage"]

PARAMETERS = Parameters(
    max_staleness=4,
    batches_per_step=2,
    probation_batches=1,
    audit_rate=0.3,
    vest_batches=1,
    vest_epochs=1,
    epoch_s=6,
    claim_s=1,
    verdict_s=5,
    silent_learner_s=30,
    anchor_every=4,
    duplicate_min_tokens=6,
)
BUDGET = 10_000_000
THRESHOLDS = Thresholds(
    sampling_mismatch=Band(accept=0.02, reject=0.06),
    sampling_margin=Band(accept=0.01, reject=0.1),
    proof_distance=Band(accept=1.0, reject=6.0),
    logprob_error=Band(accept=0.01, reject=0.1),
)


@dataclass
class Member:
    """One participant. `vice`: how it cheats, "" for an honest one."""

    name: str
    identity: Identity
    role: Role
    access: Access
    vice: Vice = ""
    is_public: bool = True
    clock_skew_s: float = 0.0
    joins_at_s: float = 0.0
    bootstrap: list[str] = field(default_factory=list)  # names
    child_death: float = 0.0  # chance that its child dies at a request

    @property
    def peer(self) -> bytes:
        return self.identity.peer

    @property
    def is_in_time(self) -> bool:
        """Whether others heed its events, and it theirs (protocols, "Time")."""
        return abs(self.clock_skew_s) < 240


def identity_of(seed: int, number: int) -> Identity:
    secret = digest("sim-key", u64(seed), u64(number))
    return Identity(Ed25519PrivateKey.from_private_bytes(secret))


def sign_spec(cast: Sequence[Member], base_path: Path, rng: random.Random, steps: int) -> Run:
    """The run of this cast, and its base checkpoint in `base_path`."""
    originator = next(member for member in cast if member.role == "originator")
    listed = tuple(
        Listed(peer=member.peer, role=member.role)
        for member in cast
        if member.role in ("learner", "verifier")
    )
    spec = RunSpec(
        name="simulated",
        originator=originator.peer,
        created_unix_ms=0,
        model=ModelSpec(
            architecture="llama",
            config=CONFIG,
            tokenizer="characters-26",
            weights=write_base(base_path, rng.getrandbits(32)),
        ),
        environments=(_environment(),),
        sampling=Sampling(groups=1, group_size=3, max_new_tokens=20),
        proof=ProofSpec(k=4, opened_chunks=3, thresholds=THRESHOLDS),
        training=Training(max_steps=steps),
        parameters=PARAMETERS,
        admission=Admission(listed=listed),
        prices=Prices(budget=BUDGET, token=1000, verdict=5000, version=20_000),
        toy=True,
    )
    return sign_run(spec, originator.identity.sign)


def _environment() -> EnvironmentSpec:
    return environments.load("sort-digits").spec()
