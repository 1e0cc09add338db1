"""Validation of events: pure functions of the chains known, the time and the bytes.

Each rule is tagged; only REJECT costs the sender score. The same function judges gossip and ranges.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from primed.p2p.errors import RemoteError
from primed.p2p.network import Acceptance
from primed.protocols.events.chains import Chains
from primed.protocols.events.messages import (
    Equivocation,
    Event,
    SignedEvent,
    Stored,
    event_digest,
    events,
    signed_events,
)
from primed.protocols.framing import decode
from primed.protocols.limits import CLOCK_AHEAD_MS, CUT_MAX_BYTES, EVENT_MAX_BYTES
from primed.verify import signing
from primed.verify.statements import Cut

MESSAGE_MAX_BYTES = CUT_MAX_BYTES + 128  # the envelope: tag, lengths, signature


class Outcome(NamedTuple):
    acceptance: Acceptance
    reason: str
    stored: Stored | None = None  # the verified event, when it is one to act on


def _reject(reason: str) -> Outcome:
    return Outcome(Acceptance.REJECT, reason)


def _ignore(reason: str) -> Outcome:
    return Outcome(Acceptance.IGNORE, reason)


def validate_message(chains: Chains, now_unix_ms: int, message: bytes) -> Outcome:
    """A gossip message: one encoded SignedEvent. Never raises."""
    if len(message) > MESSAGE_MAX_BYTES:
        return _reject("message too large")  # REJECT
    try:
        signed = decode(signed_events, message)
    except RemoteError as error:
        return _reject(error.reason)  # REJECT
    return validate_event(chains, now_unix_ms, signed)


def validate_event(chains: Chains, now_unix_ms: int, signed: SignedEvent) -> Outcome:
    """Cheap rules first; the signature is checked only for an event that would be news."""
    try:
        event = decode(events, signed.event)
    except RemoteError as error:
        return _reject(error.reason)  # REJECT
    is_cut = isinstance(event.body, Cut) and event.author == chains.originator
    if len(signed.event) > EVENT_MAX_BYTES and not is_cut:
        return _reject("event too large")  # REJECT: only the originator's cuts may exceed 4 KiB
    if event.run != chains.run:
        return _reject("event of another run")  # REJECT
    stored = Stored(signed, event, event_digest(signed.event))
    if reason := _why_useless(chains, now_unix_ms, stored):
        return _ignore(reason)  # IGNORE
    if not signing.is_signed_by(event.author, "event", signed.event, signed.signature):
        return _reject("signature is not the author's")  # REJECT
    return Outcome(Acceptance.ACCEPT, "", stored)


def _why_useless(chains: Chains, now_unix_ms: int, stored: Stored) -> str:
    """IGNORE rules. A known place with another digest is news: it proves an equivocation."""
    event = stored.event
    known = chains.digest_at(event.author, event.seq)
    held = chains.pending_at(event.author, event.seq)
    if stored.digest in (known, held.digest if held else None):
        return "seen already"
    if chains.is_void(event.author, event.seq):
        return "author has equivocated"
    if event.unix_ms > now_unix_ms + CLOCK_AHEAD_MS:
        return "more than 5 minutes ahead"
    if chains.is_full_for(event.author):
        return "too many authors"
    return ""


def linked_events(
    run: bytes, author: bytes, start: int, prev: bytes, signed: Sequence[SignedEvent]
) -> list[Stored]:
    """The events, verified, if they are the author's from start on and the first one follows
    `prev`; else []. What is already known, or void, makes no difference."""
    found: list[Stored] = []
    for seq, each in enumerate(signed, start):
        try:
            event = decode(events, each.event)
        except RemoteError:
            return []
        if (event.run, event.author, event.seq, event.prev) != (run, author, seq, prev):
            return []
        if not signing.is_signed_by(author, "event", each.event, each.signature):
            return []
        prev = event_digest(each.event)
        found.append(Stored(each, event, prev))
    return found


def proven_place(run: bytes, proof: Equivocation) -> tuple[bytes, int] | None:
    """(author, seq) that the proof convicts in this run, or None if it proves nothing."""
    try:
        first, second = decode(events, proof.first.event), decode(events, proof.second.event)
    except RemoteError:
        return None
    if _place(first) != _place(second) or first.run != run:
        return None
    if proof.first.event == proof.second.event:
        return None
    for signed in (proof.first, proof.second):
        if not signing.is_signed_by(first.author, "event", signed.event, signed.signature):
            return None
    return first.author, first.seq


def _place(event: Event) -> tuple[bytes, bytes, int]:
    return event.run, event.author, event.seq
