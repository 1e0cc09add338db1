"""Messages of /primed/hello/1 (bounds are part of the types)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct
from msgspec.msgpack import Decoder

from primed.protocols.limits import RECORD_MAX_BYTES, RUNS_LISTED, SESSIONS_NAMED
from primed.verify.runspec import Count, Digest, Peer, Role, Signature, SignedRun

Address = Annotated[str, Meta(min_length=1, max_length=256)]
Session = Annotated[bytes, Meta(min_length=16, max_length=16)]  # random, new at each start
ProtocolId = Annotated[str, Meta(min_length=1, max_length=64)]


class _Message(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    pass


class NodeRecord(_Message, frozen=True):
    """What a node says of itself. A higher sequence replaces a lower one."""

    peer: Peer
    roles: Annotated[tuple[Role, ...], Meta(max_length=6)]
    protocols: Annotated[tuple[ProtocolId, ...], Meta(max_length=32)]
    addresses: Annotated[tuple[Address, ...], Meta(max_length=16)]
    runs: Annotated[tuple[Digest, ...], Meta(max_length=64)]
    profile: Annotated[str, Meta(max_length=200)]  # for example "bf16/torch/cpu"
    sequence: Count
    expires_unix_ms: Count
    session: Session = bytes(16)
    since_unix_ms: Count = 0  # when the session began to act; 0: it still looks for its double
    others: Annotated[tuple[Session, ...], Meta(max_length=SESSIONS_NAMED)] = ()  # of this key


class SignedRecord(_Message, frozen=True):
    """The exact bytes of a NodeRecord and its peer's signature over them (domain `record`)."""

    record: Annotated[bytes, Meta(max_length=RECORD_MAX_BYTES)]
    signature: Signature


class Greet(_Message, frozen=True, tag="greet"):
    record: SignedRecord


class ListRuns(_Message, frozen=True, tag="list_runs"):
    pass


class GetRun(_Message, frozen=True, tag="get_run"):
    run: Digest


class Greeted(_Message, frozen=True, tag="greeted"):
    """`other`: a record that the *asker's* key signed in another session, within its lease."""

    record: SignedRecord
    other: SignedRecord | None = None


class RunList(_Message, frozen=True, tag="runs"):
    runs: Annotated[tuple[Digest, ...], Meta(max_length=RUNS_LISTED)]


class FoundRun(_Message, frozen=True, tag="run"):
    run: SignedRun


requests: Decoder[Greet | ListRuns | GetRun] = Decoder(Greet | ListRuns | GetRun)
responses: Decoder[Greeted | RunList | FoundRun] = Decoder(Greeted | RunList | FoundRun)
records: Decoder[NodeRecord] = Decoder(NodeRecord)
signed_records: Decoder[SignedRecord] = Decoder(SignedRecord)
