"""What peers state, as bodies of signed events: the vocabulary of verdicts and of the ledger.

`protocols.events` wraps a body in a signed, chained event and carries it; `verify.verdicts` and
`verify.ledger` draw conclusions from bodies and never see the wire. An event as these modules
see it is an `Entry`. Bounds are part of the types: a decoded body is within them.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from primed.verify.digests import digest
from primed.verify.runspec import Count, Digest, Peer, Role, Signature

Text = Annotated[str, Meta(max_length=200)]
Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class _Body(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    pass


class Joined(_Body, frozen=True, tag="joined"):
    """The author takes part in the run with these roles. An open worker begins with it."""

    roles: Annotated[tuple[Role, ...], Meta(min_length=1, max_length=6)]
    profile: Text  # dtype/engine/device, for example "bf16/torch/cpu"


class Admitted(_Body, frozen=True, tag="admitted"):
    """The originator admits a key to a role (and brings an excluded key back)."""

    peer: Peer
    role: Role
    weight: Annotated[int, Meta(ge=1, le=1_000_000)] = 1


class Granted(_Body, frozen=True, tag="granted"):
    """The originator grants credits (micro) out of the budget."""

    peer: Peer
    credits: Count


class Payload(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A shard set: a file cut into leaves under a Merkle root (see protocols.shardcast)."""

    root: Digest
    size_bytes: Annotated[int, Meta(ge=1, le=1 << 42)]
    leaf_bytes: Annotated[int, Meta(ge=1 << 10, le=1 << 20)]

    @property
    def leaves(self) -> int:
        return -(-self.size_bytes // self.leaf_bytes)


class Manifest(_Body, frozen=True, tag="manifest"):
    """One policy version. Its digest (version_of) names the version; step 0 is the base checkpoint."""

    learner: Peer
    kind: Literal["step", "mix", "anchor", "merged"]
    step: Number
    parents: Annotated[tuple[Digest, ...], Meta(max_length=8)]
    weights: Digest  # weights digest of the whole policy, bf16
    delta: Payload | None  # from parents[0]'s weights to these
    snapshot: Payload | None  # the full weights, at step 0 and every `anchor_every` steps
    consumed: Annotated[tuple[Digest, ...], Meta(max_length=64)]  # commitments, micro-batch order
    grad_norm: float = 0.0
    reward_mean: float = 0.0

    def payloads(self) -> tuple[Payload, ...]:
        return tuple(part for part in (self.delta, self.snapshot) if part is not None)


class Receipt(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A holder's signed word that it stored a batch (domain `stored`, over stored_message)."""

    holder: Peer
    signature: Signature


class Committed(_Body, frozen=True, tag="committed"):
    """A worker binds itself to a batch that two holders have. The event's digest names the commitment."""

    learner: Peer  # the lineage the batch belongs to
    counter: Number
    version: Digest
    seen: Digest  # newest manifest when generation began; version is it or its parent
    cut: Number
    cut_root: Digest
    batch: Digest  # content digest of the batch file
    size_bytes: Annotated[int, Meta(ge=1, le=1 << 30)]
    root: Digest  # Merkle root over rollouts and proofs (verify.batch)
    rollouts: Annotated[int, Meta(ge=1, le=1 << 20)]
    chunks: Annotated[int, Meta(ge=1, le=1 << 24)]
    tokens: Annotated[int, Meta(ge=1, le=1 << 32)]  # generated tokens, all groups
    receipts: Annotated[tuple[Receipt, ...], Meta(max_length=8)]


class Skipped(_Body, frozen=True, tag="skipped"):
    """The worker gives a counter up, unpaid, so that later ones stay contiguous."""

    counter: Number
    reason: Text


class Claim(_Body, frozen=True, tag="claim"):
    """A drawn verifier will check this commitment; `proof` is its ECVRF proof of the draw."""

    commitment: Digest
    round: Annotated[int, Meta(ge=0, le=2)]
    proof: Annotated[bytes, Meta(min_length=80, max_length=80)]


class Verdict(_Body, frozen=True, tag="verdict"):
    """A verifier's opened verdict on a claimed commitment, with what it measured."""

    commitment: Digest
    round: Annotated[int, Meta(ge=0, le=2)]
    outcome: Literal["accept", "reject", "inconclusive"]
    reason: Text  # "ok", or the check that failed: schema, assignment, ..., sampling, proof
    measurements: Annotated[dict[Text, float], Meta(max_length=16)]


class Rejected(_Body, frozen=True, tag="rejected"):
    """A learner refuses a batch of its lineage: unpaid if stale or unavailable, never slashed by this."""

    commitment: Digest
    reason: Text
    evidence: Text = ""


class Head(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An author's newest event: sequence number and digest."""

    author: Peer
    seq: Number
    digest: Digest


class Cut(_Body, frozen=True, tag="cut"):
    """Closes an epoch: which events count so far, and the state root that folding them gives."""

    number: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    previous: Digest  # state root of the cut before; the RunSpec's digest for cut 1
    heads: Annotated[tuple[Head, ...], Meta(max_length=600)]  # sorted by author
    state_root: Digest


Body = (
    Joined | Admitted | Granted | Manifest | Committed | Skipped | Claim | Verdict | Rejected | Cut
)


class Entry(Struct, frozen=True):
    """A verified event, as conclusions are drawn from it. `digest` is the event's."""

    author: bytes
    seq: int
    digest: bytes
    body: Body


def makes_a_version(manifest: Manifest) -> bool:
    """By its form, after version 0: a step has one parent, a mix several and no batches."""
    if manifest.delta is None or not manifest.parents:
        return False
    if manifest.kind == "mix":
        return len(manifest.parents) > 1 and not manifest.consumed
    return manifest.kind == "step" and len(manifest.parents) == 1


def version_of(manifest: Manifest) -> bytes:
    """The policy version's name: digest of the manifest's encoding."""
    return digest("manifest", msgspec.msgpack.encode(manifest))


def stored_message(run: bytes, worker: bytes, counter: int, batch: bytes, root: bytes) -> bytes:
    """What a holder signs in a Receipt (domain `stored`)."""
    return digest("stored", run, worker, counter.to_bytes(8, "big"), batch, root)
