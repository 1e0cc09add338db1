"""Messages of /primed/rollouts/1 (bounds are part of the types)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct
from msgspec.msgpack import Decoder

from primed.protocols.limits import ATTACHMENT_MAX_BYTES
from primed.verify.runspec import Digest, Peer
from primed.verify.statements import Number, Receipt


class _Message(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    pass


class BatchHeader(_Message, frozen=True):
    """What a holder is asked to store, and all that its receipt binds."""

    run: Digest
    worker: Peer
    counter: Number
    batch: Digest  # content digest of the bytes
    root: Digest  # Merkle root over rollouts and proofs (verify.batch)
    size_bytes: Annotated[int, Meta(ge=1, le=ATTACHMENT_MAX_BYTES)]


class Offer(_Message, frozen=True, tag="offer"):
    header: BatchHeader

    @property
    def run(self) -> bytes:
        return self.header.run


class Put(_Message, frozen=True, tag="put"):
    """The batch's bytes are attached."""

    header: BatchHeader

    @property
    def run(self) -> bytes:
        return self.header.run


class Get(_Message, frozen=True, tag="get"):
    run: Digest
    batch: Digest


class Wanted(_Message, frozen=True, tag="wanted"):
    """Not here yet, and there is room: put it."""


class Stored(_Message, frozen=True, tag="stored"):
    """It is on disk, verified and synced."""

    receipt: Receipt


class Found(_Message, frozen=True, tag="found"):
    """The batch's bytes are attached."""


requests: Decoder[Offer | Put | Get] = Decoder(Offer | Put | Get)
responses: Decoder[Wanted | Stored | Found] = Decoder(Wanted | Stored | Found)
headers: Decoder[BatchHeader] = Decoder(BatchHeader)
