"""Messages of /primed/shardcast/1 and of the shard topics (bounds are part of the types)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct
from msgspec.msgpack import Decoder

from primed.protocols.limits import (
    ANNOUNCED_LEAVES,
    BULK_LEAVES,
    LARGE_LEAF_BYTES,
    LEAVES_PER_REQUEST,
    PAYLOAD_LEAVES_MAX,
)
from primed.verify.digests import digest, u64
from primed.verify.runspec import Digest, Signature
from primed.verify.statements import Payload

Index = Annotated[int, Meta(ge=0, lt=PAYLOAD_LEAVES_MAX)]
LeafBytes = Annotated[bytes, Meta(min_length=1, max_length=LARGE_LEAF_BYTES)]
Path = Annotated[tuple[Digest, ...], Meta(max_length=22)]  # 2**22 > PAYLOAD_LEAVES_MAX


class _Message(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    pass


class Shard(_Message, frozen=True, tag="shard"):
    """Gossip: one leaf, with the learner's word (domain `shards`, over shards_message) that the
    payload is its own, so that it can be judged and forwarded before its manifest arrives."""

    payload: Payload
    signature: Signature
    index: Index
    leaf: LeafBytes
    path: Path


class GetHave(_Message, frozen=True, tag="get_have"):
    """What have you, and tell me what you gain. The whole payload is named, not only its root: an answerer whose payload of this root has
    another size (somebody's manifest lies) answers that it has nothing."""

    run: Digest
    payload: Payload


class GetLeaves(_Message, frozen=True, tag="get_leaves"):
    run: Digest
    payload: Payload
    indexes: Annotated[tuple[Index, ...], Meta(min_length=1, max_length=LEAVES_PER_REQUEST)]


class Gained(_Message, frozen=True, tag="gained"):
    """To a peer that asked what we have: we have these leaves, too, now."""

    run: Digest
    payload: Payload
    indexes: Annotated[tuple[Index, ...], Meta(min_length=1, max_length=ANNOUNCED_LEAVES)]


class Noted(_Message, frozen=True, tag="noted"):
    """has: those of the announced leaves that the peer has already; is_wanted: tell me more."""

    has: Annotated[tuple[Index, ...], Meta(max_length=ANNOUNCED_LEAVES)]
    is_wanted: bool


class Have(_Message, frozen=True, tag="have"):
    """Bit i (of byte i // 8, lowest first) is set if the peer has leaf i. Empty: nothing."""

    bitmap: Annotated[bytes, Meta(max_length=PAYLOAD_LEAVES_MAX // 8)]


class Leaf(_Message, frozen=True):
    index: Index
    leaf: LeafBytes
    path: Path


class Leaves(_Message, frozen=True, tag="leaves"):
    """Those of the asked leaves that the peer has, in the order asked. The last ones may be left out
    under an upload cap: ask again."""

    leaves: Annotated[tuple[Leaf, ...], Meta(max_length=LEAVES_PER_REQUEST)]


class Want(_Message, frozen=True, tag="want"):
    """Bulk lane: these leaves, please."""

    payload: Payload
    indexes: Annotated[tuple[Index, ...], Meta(min_length=1, max_length=BULK_LEAVES)]


class Proven(_Message, frozen=True):
    index: Index
    path: Path


class Coming(_Message, frozen=True, tag="coming"):
    """Bulk lane: those of the wanted leaves that the peer has. Their bytes follow, in this order,
    each as long as the payload says."""

    leaves: Annotated[tuple[Proven, ...], Meta(max_length=BULK_LEAVES)]


requests: Decoder[GetHave | GetLeaves | Gained] = Decoder(GetHave | GetLeaves | Gained)
responses: Decoder[Have | Leaves | Noted] = Decoder(Have | Leaves | Noted)
shards: Decoder[Shard] = Decoder(Shard)
wants: Decoder[Want] = Decoder(Want)
comings: Decoder[Coming] = Decoder(Coming)


def shards_message(run: bytes, learner: bytes, payload: Payload) -> bytes:
    """What a learner signs once for all shards of a payload."""
    size, leaf = u64(payload.size_bytes), u64(payload.leaf_bytes)
    return digest("shards", run, learner, payload.root, size, leaf)
