"""Every message between the daemon and its children, both ways.

A message is u32 big-endian length + msgpack of one of these structs over an inherited socket pair.
Weights, batches and learner states pass by path to files that are complete and verified; a path is
never taken from a peer. Requests carry an id; a child answers each with one reply of the same id
(`Failed` when it could not), and sends `Heartbeat` every second from a thread of its own.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

ChildKind = Literal["engine", "learner", "verifier"]
MESSAGE_MAX_BYTES = 16 * 1024 * 1024
HEARTBEAT_S = 1.0
FORWARD_TOKENS = 16_384  # packed tokens a forward pass, unless memory asks for fewer


class _Message(Struct, frozen=True, forbid_unknown_fields=True):
    pass


# ---- requests: daemon -> child -------------------------------------------------------------


class Configure(_Message, frozen=True, tag=True):
    """First message. `spec` is the RunSpec's exact bytes (already verified by the daemon)."""

    id: int
    kind: ChildKind
    spec: bytes
    run_id: bytes
    peer: bytes  # this node's peer id
    threads: int = 1
    niceness: int = 5  # network and user come first
    dishonest: bool = False  # only honoured for a toy run: see primed.training.dishonest


class Materialise(_Message, frozen=True, tag=True):
    """Make the weights file of a version: a snapshot as it is, or base weights plus a delta.
    The result (safetensors, bf16) must have this weights digest."""

    id: int
    version: bytes
    weights: bytes  # expected weights digest
    out_path: str
    snapshot_path: str | None = None
    base_path: str | None = None
    delta_path: str | None = None


class Generate(_Message, frozen=True, tag=True):
    """Engine: load the version if it is not loaded, generate one batch, write it to out_path.
    `rows_max` bounds how many sequences are decoded at once (0: no bound): memory, not meaning."""

    id: int
    counter: int
    version: bytes
    weights_path: str
    out_path: str
    rows_max: int = 0


class Inspect(_Message, frozen=True, tag=True):
    """Checks 1 to 5 of a batch, without the model (learner and verifier children)."""

    id: int
    batch_path: str
    worker: bytes
    counter: int
    version: bytes
    root: bytes
    rollouts: int
    chunks: int
    tokens: int


class Check(_Message, frozen=True, tag=True):
    """Verifier: checks 1 to 6 with the model at exactly this version."""

    id: int
    inspect: Inspect
    weights_path: str
    draw: bytes  # output of the verifier's VRF; chunks to open follow from it and the root


class Train(_Message, frozen=True, tag=True):
    """Learner: one optimiser step from `state_path` (None: from base_path) over these batches.
    Writes state, weights, delta and, if asked, nothing else; every file is synced before the reply.
    `forward_tokens` bounds a forward pass: memory, not meaning."""

    id: int
    step: int  # the step being made: parent's step + 1
    parent_path: str  # parent version's weights (bf16)
    reference_path: str  # base checkpoint, for the KL term
    state_path: str | None
    batch_paths: list[str]
    out_state_path: str
    out_weights_path: str
    out_delta_path: str
    forward_tokens: int = FORWARD_TOKENS


class Merge(_Message, frozen=True, tag=True):
    """Learner: the delta from one version's weights to a later one's, composed from their files."""

    id: int
    base_path: str
    new_path: str
    out_path: str


Request = Configure | Materialise | Generate | Inspect | Check | Train | Merge


# ---- replies: child -> daemon --------------------------------------------------------------


class Heartbeat(_Message, frozen=True, tag=True):
    busy_with: str  # what the child is doing, "" when idle
    busy_s: float


class Ready(_Message, frozen=True, tag=True):
    id: int
    backend: str  # "torch", later "vllm"
    device: str
    profile: str  # dtype/engine/device as in commitments


class Materialised(_Message, frozen=True, tag=True):
    id: int
    version: bytes
    path: str
    seconds: float


class Generated(_Message, frozen=True, tag=True):
    id: int
    counter: int
    version: bytes
    path: str
    batch: bytes  # content digest of the file
    size_bytes: int
    root: bytes
    rollouts: int
    chunks: int
    tokens: int
    reward_mean: float
    seconds: float


class Inspected(_Message, frozen=True, tag=True):
    """`failed` is "" or the name of the check; completions are digests for duplicate search."""

    id: int
    failed: str
    detail: str
    fingerprints: list[bytes]
    reward_mean: float


class Checked(_Message, frozen=True, tag=True):
    id: int
    outcome: Literal["accept", "reject", "inconclusive"]
    reason: str
    detail: str
    measurements: dict[str, float]
    fingerprints: list[bytes]
    seconds: float


class Trained(_Message, frozen=True, tag=True):
    """`refused` is "" or why no step was made (non-finite loss: batches are quarantined)."""

    id: int
    step: int
    refused: str
    weights: bytes  # weights digest of the new version
    delta_bytes: int
    metrics: dict[str, float]  # loss, grad_norm, kl, clip_fraction, entropy, reward_mean, ...
    alarm: str  # "" or the state `unstable` with its figure
    seconds: float


class Merged(_Message, frozen=True, tag=True):
    id: int
    delta_bytes: int
    seconds: float


class Failed(_Message, frozen=True, tag=True):
    """The request could not be served; the child stays up unless fatal."""

    id: int
    kind: Literal["bad_config", "bad_input", "oom", "disk", "bug"]
    message: str
    fatal: bool = False


Reply = (
    Heartbeat | Ready | Materialised | Generated | Inspected | Checked | Trained | Merged | Failed
)
