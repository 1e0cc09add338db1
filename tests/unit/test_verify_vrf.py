"""ECVRF: the RFC's examples, refusals, and the draw of verifiers and chunks."""

from __future__ import annotations

import math
from fractions import Fraction
from hashlib import sha512

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl import bindings as sodium

from primed.verify import draw, vrf

# RFC 9381 appendix B.3, examples 16 to 18: SK, PK, alpha, pi, beta
EXAMPLES = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "8657106690b5526245a92b003bb079ccd1a92130477671f6fc01ad16f26f723f"
            "26f8a57ccaed74ee1b190bed1f479d9727d2d0f9b005a6e456a35d4fb0daab12"
            "68a1b0db10836d9826a528ca76567805"
        ),
        (
            "90cf1df3b703cce59e2a35b925d411164068269d7b2d29f3301c03dd757876ff"
            "66b71dda49d2de59d03450451af026798e8f81cd2e333de5cdf4f3e140fdd8ae"
        ),
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "f3141cd382dc42909d19ec5110469e4feae18300e94f304590abdced48aed593"
            "3bf0864a62558b3ed7f2fea45c92a465301b3bbf5e3e54ddf2d935be3b67926d"
            "a3ef39226bbc355bdc9850112c8f4b02"
        ),
        (
            "eb4440665d3891d668e7e0fcaf587f1b4bd7fbfe99d0eb2211ccec90496310eb"
            "5e33821bc613efb94db5e5b54c70a848a0bef4553a41befc57663b56373a5031"
        ),
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        (
            "9bc0f79119cc5604bf02d23b4caede71393cedfbb191434dd016d30177ccbf80"
            "96bb474e53895c362d8628ee9f9ea3c0e52c7a5c691b6c18c9979866568add7a"
            "2d41b00b05081ed0f58ee5e31b3a970e"
        ),
        (
            "645427e5d00c62a23fb703732fa5d892940935942101e456ecca7bb217c61c45"
            "2118fec1219202a0edcf038bb6373241578be7217ba85a2687f7a0310b2df19f"
        ),
    ),
]
SEED = bytes(range(32))
KEY = sodium.crypto_sign_seed_keypair(SEED)[0]
ORDER = 2**252 + 27742317777372353535851937790883648493
IDENTITY = (1).to_bytes(32, "little")
ORDER_TWO = (2**255 - 20).to_bytes(32, "little")  # (0, -1)


@pytest.mark.parametrize("example", EXAMPLES, ids=["16", "17", "18"])
def test_examples_of_rfc_9381(example: tuple[str, ...]) -> None:
    seed, key, alpha, proof, beta = (bytes.fromhex(part) for part in example)
    assert sodium.crypto_sign_seed_keypair(seed)[0] == key
    assert vrf.prove(seed, alpha) == proof
    assert vrf.output(key, alpha, proof) == beta


@given(st.binary(max_size=100))
def test_a_proof_is_of_one_key_and_one_alpha(alpha: bytes) -> None:
    proof = vrf.prove(SEED, alpha)
    found = vrf.output(KEY, alpha, proof)
    assert found is not None
    assert len(found) == vrf.OUTPUT_BYTES
    assert vrf.output(KEY, alpha + b"x", proof) is None
    assert vrf.output(bytes.fromhex(EXAMPLES[0][1]), alpha, proof) is None


@given(st.integers(0, 639))
def test_every_bit_of_a_proof_counts(bit: int) -> None:
    proof = bytearray(vrf.prove(SEED, b"alpha"))
    proof[bit // 8] ^= 1 << bit % 8
    assert vrf.output(KEY, b"alpha", bytes(proof)) is None


@given(st.binary(max_size=100), st.binary(min_size=80, max_size=80))
def test_hostile_bytes_never_raise(key: bytes, proof: bytes) -> None:
    assert vrf.output(key, b"alpha", proof) is None
    assert vrf.output(KEY, b"alpha", proof) is None
    assert vrf.output(KEY, b"alpha", key) is None


@pytest.mark.parametrize("small", [IDENTITY, ORDER_TWO, bytes(32), b"\xff" * 32])
def test_points_outside_the_subgroup_are_refused(small: bytes) -> None:
    proof = vrf.prove(SEED, b"alpha")
    assert vrf.output(small, b"alpha", proof) is None
    assert vrf.output(KEY, b"alpha", small + proof[32:]) is None
    assert vrf.output(KEY, b"alpha", bytes(80)) is None


def test_a_torsion_component_is_refused() -> None:
    """Gamma and Y plus a point of order two are on the curve, but not in the subgroup."""
    proof = vrf.prove(SEED, b"alpha")
    mixed = sodium.crypto_core_ed25519_add(proof[:32], ORDER_TWO)
    assert vrf.output(KEY, b"alpha", mixed + proof[32:]) is None
    mixed_key = sodium.crypto_core_ed25519_add(KEY, ORDER_TWO)
    assert vrf.output(mixed_key, b"alpha", proof) is None


def test_an_unreduced_scalar_is_refused() -> None:
    proof = vrf.prove(SEED, b"alpha")
    s = int.from_bytes(proof[48:], "little") + ORDER
    assert vrf.output(KEY, b"alpha", proof[:48] + s.to_bytes(32, "little")) is None


def output_of(fraction: float) -> bytes:
    return int(fraction * 2**64).to_bytes(8, "big") + bytes(56)


def test_drawn_below_the_share_of_intensity() -> None:
    half = Fraction(1, 6)  # a sixth of the weight at intensity 3
    assert draw.is_drawn(output_of(0.4999), half, Fraction(3))
    exact = (1 << 63).to_bytes(8, "big") + b"\xff" * 56
    assert not draw.is_drawn(exact, half, Fraction(3))
    assert draw.is_drawn(((1 << 63) - 1).to_bytes(8, "big") + bytes(56), half, Fraction(3))


def test_a_full_rate_draws_everyone_with_weight() -> None:
    always = draw.intensity(False, 1.0, 0)
    assert draw.is_drawn(b"\xff" * 64, Fraction(1, 10**9), always)
    assert not draw.is_drawn(bytes(64), Fraction(0), always)
    assert draw.intensity(True, 1.0, 2) == always


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.25, 0.999])
@pytest.mark.parametrize("round", [0, 1, 2])
def test_intensity_is_minus_the_logarithm_of_the_spared_share(rate: float, round: int) -> None:
    assert float(draw.intensity(False, rate, round)) == pytest.approx(
        -math.log1p(-rate) * 2**round, rel=1e-12
    )
    assert draw.intensity(True, rate, round) == 3 * 2**round


def test_intensity_has_fixed_bits() -> None:
    """No libm: every machine compares with the same number."""
    assert draw.intensity(False, 0.25, 0) == Fraction("0.2876820724517809274392190059938274315035")


def test_a_rate_is_the_chance_that_somebody_is_drawn() -> None:
    """Four equal verifiers, audit rate 25 %: about a quarter of 2,000 batches is drawn."""
    drawn = sum(
        any(
            draw.is_drawn(vrf_like(batch, verifier), Fraction(1, 4), draw.intensity(False, 0.25, 0))
            for verifier in range(4)
        )
        for batch in range(2000)
    )
    assert 430 < drawn < 580


def vrf_like(batch: int, verifier: int) -> bytes:
    return sha512(bytes([verifier]) + batch.to_bytes(8, "big")).digest()


def test_alpha_separates_its_fields() -> None:
    fields = (b"r" * 32, b"w" * 38, 7, 0, b"c" * 32)
    assert draw.alpha(*fields).startswith(b"primed/draw/1")
    others = {
        draw.alpha(b"R" * 32, *fields[1:]),
        draw.alpha(fields[0], b"W" * 38, *fields[2:]),
        draw.alpha(*fields[:2], 8, *fields[3:]),
        draw.alpha(*fields[:3], 1, fields[4]),
        draw.alpha(*fields[:4], b"C" * 32),
        draw.alpha(*fields),
    }
    assert len(others) == 6


def test_opened_chunks_follow_from_output_and_root() -> None:
    one = draw.opened(b"o" * 64, b"r" * 32, 1000, 64)
    assert one == draw.opened(b"o" * 64, b"r" * 32, 1000, 64)
    assert len(set(one)) == 64
    assert one == sorted(one)
    assert 0 <= one[0] <= one[-1] < 1000
    assert one != draw.opened(b"p" * 64, b"r" * 32, 1000, 64)
    assert one != draw.opened(b"o" * 64, b"s" * 32, 1000, 64)
    assert draw.opened(b"o" * 64, b"r" * 32, 3, 64) == [0, 1, 2]
