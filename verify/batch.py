"""The batch file: every group of one counter, as a worker pushes it and a verifier checks it.

A batch is content-addressed by the digest of its bytes, and committed to by a Merkle root whose
leaves are the header, then, rollout by rollout, the rollout without its proofs followed by its
proofs one leaf each. `decode_batch` accepts any bytes and either returns a batch within all bounds
or raises MalformedBatch; it says nothing yet about whether the content is right (verify.checks).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from primed.verify import merkle
from primed.verify.digests import digest, joined, u64
from primed.verify.runspec import Digest, Peer

BATCH_MAX_BYTES = 256 * 1024 * 1024


class MalformedBatch(ValueError):
    """The bytes are not a batch; the message says why."""


class Rollout(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One completion. tokens: u32 little-endian [n]; logprobs: f32 little-endian [n], processed at
    temperature T; proofs: one per chunk of 32 tokens; reward in millionths."""

    tokens: Annotated[bytes, Meta(min_length=4, max_length=1 << 22)]
    logprobs: Annotated[bytes, Meta(min_length=4, max_length=1 << 22)]
    proofs: Annotated[tuple[Annotated[bytes, Meta(max_length=4096)], ...], Meta(max_length=1 << 16)]
    reward_micro: Annotated[int, Meta(ge=-(2**40), le=2**40)]
    finished: bool  # the last token is EOS

    @property
    def token_ids(self) -> NDArray[np.uint32]:
        return np.frombuffer(self.tokens, dtype="<u4")

    @property
    def logprob_values(self) -> NDArray[np.float32]:
        return np.frombuffer(self.logprobs, dtype="<f4")


class Group(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """All completions of one assigned prompt."""

    environment: Annotated[int, Meta(ge=0, lt=64)]  # index into RunSpec.environments
    prompt: Annotated[int, Meta(ge=0, le=2**63 - 1)]  # index of the prompt within the environment
    rollouts: Annotated[tuple[Rollout, ...], Meta(min_length=1, max_length=1024)]


class Batch(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    run: Digest
    worker: Peer
    counter: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    version: Digest
    profile: Annotated[str, Meta(max_length=200)]
    groups: Annotated[tuple[Group, ...], Meta(min_length=1, max_length=1024)]

    def rollouts(self) -> Iterator[tuple[int, int, Group, Rollout]]:
        """(group index, sample index, group, rollout) in commitment order."""
        for g, group in enumerate(self.groups):
            for s, rollout in enumerate(group.rollouts):
                yield g, s, group, rollout

    @property
    def total_tokens(self) -> int:
        return sum(len(rollout.tokens) // 4 for _, _, _, rollout in self.rollouts())

    @property
    def total_rollouts(self) -> int:
        return sum(len(group.rollouts) for group in self.groups)

    @property
    def total_chunks(self) -> int:
        return sum(len(rollout.proofs) for _, _, _, rollout in self.rollouts())


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Batch)


def encode_batch(batch: Batch) -> bytes:
    return _encoder.encode(batch)


def decode_batch(data: bytes) -> Batch:
    """Raises MalformedBatch; the array bytes' lengths agree and their sizes are multiples of 4."""
    if len(data) > BATCH_MAX_BYTES:
        raise MalformedBatch(f"larger than {BATCH_MAX_BYTES} bytes")
    try:
        batch = _decoder.decode(data)
    # msgspec lets UnicodeDecodeError through, a ValueError of another kind.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedBatch(str(error)) from error
    for g, s, _, rollout in batch.rollouts():
        if len(rollout.tokens) % 4 or len(rollout.tokens) != len(rollout.logprobs):
            raise MalformedBatch(f"group {g} sample {s}: tokens and logprobs differ in length")
    return batch


def commitment_root(batch: Batch) -> bytes:
    """Merkle root that the worker signs (algorithms.md section 2, "Commitment")."""
    header = digest(
        "batch", batch.run, batch.worker, u64(batch.counter), batch.version, batch.profile.encode()
    )
    leaves = [merkle.leaf_hash(header)]
    for g, s, group, rollout in batch.rollouts():
        leaves.append(merkle.leaf_hash(_rollout_leaf(g, s, group, rollout)))
        for c, proof in enumerate(rollout.proofs):
            leaves.append(merkle.leaf_hash(joined([u64(g), u64(s), u64(c), proof])))
    return merkle.root_of(leaves)


def _rollout_leaf(g: int, s: int, group: Group, rollout: Rollout) -> bytes:
    return joined(
        [
            u64(g),
            u64(s),
            u64(group.environment),
            u64(group.prompt),
            rollout.tokens,
            rollout.logprobs,
            rollout.reward_micro.to_bytes(8, "big", signed=True),
            bytes([rollout.finished]),
        ]
    )
