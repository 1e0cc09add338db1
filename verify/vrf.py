"""ECVRF-EDWARDS25519-SHA512-TAI (RFC 9381, suite 0x03) on a node's Ed25519 key, over libsodium.

The secret key is the 32-byte Ed25519 seed, the public key the node's own. Stricter than the RFC in
two places: Y and Gamma outside the prime-order subgroup are refused, so every output has exactly
one preimage, and so are c = 0 and s = 0, which libsodium will not multiply by (an honest prover
meets them with probability 2^-128).
"""

from __future__ import annotations

from hashlib import sha512

from nacl import bindings as sodium
from nacl.exceptions import CryptoError

PROOF_BYTES = 80
OUTPUT_BYTES = 64

_SUITE = b"\x03"
_ORDER = 2**252 + 27742317777372353535851937790883648493
_FIELD = 2**255 - 19
_IDENTITY = (1).to_bytes(32, "little")


def prove(seed32: bytes, alpha: bytes) -> bytes:
    """The 80-byte proof that `output` turns into the one pseudorandom output for this alpha."""
    public_key, secret = sodium.crypto_sign_seed_keypair(seed32)[0], sha512(seed32).digest()
    x = bytes([secret[0] & 248]) + secret[1:31] + bytes([secret[31] & 127 | 64])
    h = _encoded_to_curve(public_key, alpha)
    gamma = sodium.crypto_scalarmult_ed25519_noclamp(x, h)
    nonce = sodium.crypto_core_ed25519_scalar_reduce(sha512(secret[32:] + h).digest())
    u = sodium.crypto_scalarmult_ed25519_base_noclamp(nonce)
    v = sodium.crypto_scalarmult_ed25519_noclamp(nonce, h)
    c = _challenge(public_key, h, gamma, u, v)
    s = (_integer(nonce) + _integer(c) * _integer(x)) % _ORDER
    return gamma + c + s.to_bytes(32, "little")


def output(public_key: bytes, alpha: bytes, proof: bytes) -> bytes | None:
    """The 64-byte output, if `proof` is this key's for alpha; else None. Never raises."""
    if len(public_key) != 32 or len(proof) != PROOF_BYTES:
        return None
    gamma, c, s = proof[:32], proof[32:48], proof[48:]
    if _integer(s) >= _ORDER or not (_is_in_subgroup(public_key) and _is_in_subgroup(gamma)):
        return None
    try:
        h = _encoded_to_curve(public_key, alpha)
        u = _difference(sodium.crypto_scalarmult_ed25519_base_noclamp(s), c, public_key)
        v = _difference(sodium.crypto_scalarmult_ed25519_noclamp(s, h), c, gamma)
    except CryptoError:  # a multiple that is the identity
        return None
    if c != _challenge(public_key, h, gamma, u, v):
        return None
    return sha512(_SUITE + b"\x03" + _times_cofactor(gamma) + b"\x00").digest()


def _encoded_to_curve(public_key: bytes, alpha: bytes) -> bytes:
    """Try-and-increment (section 5.4.1.1): the first hash that is a point, times the cofactor."""
    for counter in range(256):
        tried = sha512(_SUITE + b"\x01" + public_key + alpha + bytes([counter]) + b"\x00").digest()
        if _integer(tried[:32]) & (2**255 - 1) >= _FIELD:
            continue  # not canonical: no point by RFC 8032
        try:
            point = _times_cofactor(tried[:32])
        except CryptoError:  # not on the curve
            continue
        if point != _IDENTITY:
            return point
    raise ValueError("no counter gives a point")  # probability 2^-256


def _challenge(*points: bytes) -> bytes:
    return sha512(_SUITE + b"\x02" + b"".join(points) + b"\x00").digest()[:16]


def _difference(multiple: bytes, c: bytes, point: bytes) -> bytes:
    """multiple - c·point"""
    subtracted = sodium.crypto_scalarmult_ed25519_noclamp(c + bytes(16), point)
    return sodium.crypto_core_ed25519_sub(multiple, subtracted)


def _times_cofactor(point: bytes) -> bytes:
    """8·point by doubling: unlike a scalar product, addition takes any point on the curve."""
    for _ in range(3):
        point = sodium.crypto_core_ed25519_add(point, point)
    return point


def _is_in_subgroup(point: bytes) -> bool:
    return bool(sodium.crypto_core_ed25519_is_valid_point(point))


def _integer(data: bytes) -> int:
    return int.from_bytes(data, "little")
