"""Messages of /primed/events/1 and of the events topic (bounds are part of the types)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct
from msgspec.msgpack import Decoder

from primed.protocols.limits import AUTHORS_MAX, CUT_MAX_BYTES, RANGE_EVENTS
from primed.verify.digests import digest
from primed.verify.runspec import Digest, Peer, Signature
from primed.verify.statements import Body, Entry, Head, Number


class _Message(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    pass


class Event(_Message, frozen=True):
    """One link of an author's chain in a run. prev: digest of the link before; the run id for 0."""

    run: Digest
    author: Peer
    seq: Number
    prev: Digest
    unix_ms: Number
    body: Body


class SignedEvent(_Message, frozen=True, tag="event"):
    """The exact bytes of an Event and its author's signature over them (domain `event`)."""

    event: Annotated[bytes, Meta(max_length=CUT_MAX_BYTES)]
    signature: Signature


class Equivocation(_Message, frozen=True, tag="equivocation"):
    """Proof against an author: two different events it signed for one place of its chain."""

    first: SignedEvent
    second: SignedEvent


class Stored(Struct, frozen=True):
    """A verified event, as it is kept: what travels, what it says, its digest."""

    signed: SignedEvent
    event: Event
    digest: bytes

    @property
    def entry(self) -> Entry:
        return Entry(self.event.author, self.event.seq, self.digest, self.event.body)


class GetHeads(_Message, frozen=True, tag="get_heads"):
    """All heads, unless the summary (see `chains.Chains.summary`) is the answerer's own."""

    run: Digest
    summary: Digest


class GetHead(_Message, frozen=True, tag="get_head"):
    run: Digest
    author: Peer


class GetRange(_Message, frozen=True, tag="get_range"):
    run: Digest
    author: Peer
    start: Number
    count: Annotated[int, Meta(ge=1, le=RANGE_EVENTS)]


class GetProof(_Message, frozen=True, tag="get_proof"):
    run: Digest
    author: Peer


class Void(_Message, frozen=True):
    """The author's events from seq on are void: there is a proof of equivocation at seq."""

    author: Peer
    seq: Number


class Heads(_Message, frozen=True, tag="heads"):
    """Heads in any order, and what is void."""

    heads: Annotated[tuple[Head, ...], Meta(max_length=AUTHORS_MAX)]
    voids: Annotated[tuple[Void, ...], Meta(max_length=AUTHORS_MAX)]


class Range(_Message, frozen=True, tag="range"):
    """Consecutive events from `start`; fewer than asked when there are no more or they are
    large."""

    events: Annotated[tuple[SignedEvent, ...], Meta(max_length=RANGE_EVENTS)]


Request = GetHeads | GetHead | GetRange | GetProof
Response = Heads | Range | Equivocation

requests: Decoder[Request] = Decoder(Request)
responses: Decoder[Response] = Decoder(Response)
signed_events: Decoder[SignedEvent] = Decoder(SignedEvent)
events: Decoder[Event] = Decoder(Event)


def event_digest(event: bytes) -> bytes:
    """Name of an event: digest of its exact bytes."""
    return digest("event", event)
