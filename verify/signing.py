"""Ed25519 statements of peers: what is signed is a domain string plus the exact bytes sent.

A libp2p peer id with an Ed25519 key is an identity multihash that contains the public key, so a
signature is checked with nothing but the peer id (libp2p peer-ids specification).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Signer = Callable[[bytes], bytes]  # raw Ed25519 signature of the message it is given

SIGNATURE_BYTES = 64
PEER_ID_BYTES = 38
_PEER_ID_PREFIX = bytes.fromhex("002408011220")  # identity multihash, 36 bytes, protobuf Ed25519


def public_key_of(peer: bytes) -> bytes:
    """The 32-byte Ed25519 key inside a peer id. Raises ValueError for any other kind of id."""
    if len(peer) != PEER_ID_BYTES or not peer.startswith(_PEER_ID_PREFIX):
        raise ValueError("not an Ed25519 peer id")
    return peer[len(_PEER_ID_PREFIX) :]


def peer_id_of(public_key: bytes) -> bytes:
    """The peer id (multihash bytes) of a 32-byte Ed25519 public key."""
    if len(public_key) != 32:
        raise ValueError("an Ed25519 public key has 32 bytes")
    return _PEER_ID_PREFIX + public_key


def message_to_sign(domain: str, body: bytes) -> bytes:
    """`primed/<domain>/1`, a zero byte, then the body exactly as it travels."""
    return f"primed/{domain}/1".encode() + b"\x00" + body


@lru_cache(maxsize=1024)
def _loaded_key(peer: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(public_key_of(peer))


def is_signed_by(peer: bytes, domain: str, body: bytes, signature: bytes) -> bool:
    """Whether `signature` is the peer's, over this body in this domain. Never raises."""
    try:
        _loaded_key(peer).verify(signature, message_to_sign(domain, body))
    except (InvalidSignature, ValueError):
        return False
    return True
