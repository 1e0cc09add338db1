"""Peer ids: multihash bytes in code, base58btc text where people read them.

Follows the libp2p peer-ids specification; needs no libp2p, so the CLI may import it.
"""

from __future__ import annotations

import base58

_MAX_TEXT = 128
# Ed25519: identity multihash (00) of 36 bytes (24), a protobuf public key of type 1 (08 01) with
# 32 bytes (12 20). Others (RSA, secp256k1): SHA-256 multihash.
_ED25519_PREFIX = bytes.fromhex("002408011220")
_ED25519_BYTES = 38
_SHA256_PREFIX = bytes.fromhex("1220")
_SHA256_BYTES = 34


def is_peer_id(peer: bytes) -> bool:
    """Whether these bytes have the form of a peer id."""
    if peer.startswith(_ED25519_PREFIX):
        return len(peer) == _ED25519_BYTES
    return peer.startswith(_SHA256_PREFIX) and len(peer) == _SHA256_BYTES


def of_public_key(public_key: bytes) -> bytes:
    """The peer id of a 32-byte Ed25519 public key."""
    if len(public_key) != 32:
        raise ValueError("an Ed25519 public key has 32 bytes")
    return _ED25519_PREFIX + public_key


def public_key_of(peer: bytes) -> bytes:
    """The 32-byte Ed25519 key inside a peer id. Raises ValueError for any other kind."""
    if len(peer) != _ED25519_BYTES or not peer.startswith(_ED25519_PREFIX):
        raise ValueError("not an Ed25519 peer id")
    return peer[len(_ED25519_PREFIX) :]


def to_text(peer: bytes) -> str:
    """Base58 text, as in multiaddrs after /p2p/."""
    return base58.b58encode(peer).decode("ascii")


def from_text(text: str) -> bytes:
    """Multihash bytes of a base58 peer id. Raises ValueError if it is none."""
    if not 0 < len(text) <= _MAX_TEXT:
        raise ValueError("not a peer id: wrong length")
    try:
        peer = base58.b58decode(text)
    except ValueError as error:
        raise ValueError(f"not a peer id: {text[:64]!r}") from error
    if not is_peer_id(peer) or to_text(peer) != text:  # the decoder ignores white space
        raise ValueError(f"not a peer id: {text[:64]!r}")
    return peer


def short(peer: bytes) -> str:
    """The last eight characters: ids of one kind share their first ones."""
    return to_text(peer)[-8:] if peer else "unknown"
