"""Signed NodeRecords: how one is made, and when one from a peer is believed. Pure."""

from __future__ import annotations

from primed.p2p.errors import HIGH, RemoteError
from primed.protocols.framing import decode, encode
from primed.protocols.hello.messages import NodeRecord, SignedRecord, records
from primed.protocols.limits import CLOCK_AHEAD_MS
from primed.verify import signing


def sign_record(record: NodeRecord, sign: signing.Signer) -> SignedRecord:
    data = encode(record)
    return SignedRecord(data, sign(signing.message_to_sign("record", data)))


def open_record(signed: SignedRecord, peer: bytes) -> NodeRecord:
    """The record, if `peer` signed it about itself. Raises RemoteError naming the peer."""
    record = decode(records, signed.record, peer)
    if record.peer != peer:
        raise RemoteError("record of another peer", peer=peer, penalty=HIGH)
    if not signing.is_signed_by(peer, "record", signed.record, signed.signature):
        raise RemoteError("record is not signed by its peer", peer=peer, penalty=HIGH)
    return record


def is_news(known: NodeRecord | None, record: NodeRecord, now_unix_ms: int) -> bool:
    """Whether to keep it: not expired (clocks may differ by minutes) and not older than ours."""
    if record.expires_unix_ms + CLOCK_AHEAD_MS < now_unix_ms:
        return False
    return known is None or record.sequence > known.sequence
