"""Gumbel noise with fixed bits, from integer operations and fp32 additions and products only.

Philox4x32-10 (Salmon et al. 2011, Random123): key = seed, counter = (token >> 2, position, 0, 0),
word = output[token & 3]. No libm: NumPy's and glibc's logarithms differ in the last bit on a fifth
of all inputs. Each product and each sum below is rounded to fp32 on its own, in this order; a
fused multiply-add anywhere gives other bits. Accuracy: absolute error at most 9.3e-7.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]
Floats = NDArray[np.float32]

# ln(1+f) = f - f²/2 + f³·Q(f) on [√½-1, √2-1];  -ln(1-x) = x·exp(x·R(x)) on (0, ½].
# Ascending; the same numbers as src/gumbel_coefficients.h.
_Q = [
    np.float32(float.fromhex(c))
    for c in (
        *("0x1.555554p-2", "-0x1.fffff2p-3", "0x1.999d50p-3", "-0x1.555ed8p-3", "0x1.23d6b6p-3"),
        *("-0x1.fc5b4cp-4", "0x1.dda7cep-4", "-0x1.d9f4d6p-4", "0x1.24da9ap-4"),
    )
]
_R = [
    np.float32(float.fromhex(c))
    for c in (
        *("0x1.000000p-1", "0x1.aaa9acp-3", "0x1.0032fep-3", "0x1.5d2cdap-4", "0x1.59bbb0p-4"),
        *("-0x1.74d66ap-5", "0x1.5b747ep-2", "-0x1.ca4c5cp-2", "0x1.8ce812p-2"),
    )
]
BLOCK_SCORES = 1 << 22  # scores held at once: 16 MiB
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)
_SQRT_HALF_BITS = np.int32(0x3F3504F3)


def gumbel(seeds: NDArray[np.uint64], positions: Words, vocabulary: int) -> Floats:
    """Noise [B, vocabulary] of seeds u64 [B] at positions u32 [B]."""
    fours = np.arange(-(-vocabulary // 4), dtype=np.uint32)[None]  # [1, V/4]
    zero = np.zeros((1, 1), np.uint32)
    key_low = seeds.astype(np.uint32)[:, None]  # [B, 1]
    key_high = (seeds >> np.uint64(32)).astype(np.uint32)[:, None]
    words = philox((fours, positions[:, None], zero, zero), (key_low, key_high))
    interleaved = np.stack(words, axis=-1).reshape(len(seeds), 4 * fours.size)
    return gumbel_of_words(interleaved[:, :vocabulary])


def gumbel_at(seeds: NDArray[np.uint64], positions: Words, tokens: Words) -> Floats:
    """Noise [B] of one token u32 [B] of each row."""
    zero = np.zeros(len(tokens), np.uint32)
    key = seeds.astype(np.uint32), (seeds >> np.uint64(32)).astype(np.uint32)
    words = np.stack(philox((tokens >> np.uint32(2), positions, zero, zero), key))  # [4, B]
    return gumbel_of_words(words[tokens & np.uint32(3), np.arange(len(tokens))])


def scores(logits: Floats, noise: Floats, inverse_temperature: np.float32) -> Floats:
    """logits · (1/T) + noise, each operation rounded to fp32."""
    with np.errstate(over="ignore", invalid="ignore"):
        return logits * inverse_temperature + noise


def choose(
    logits: Floats,
    seeds: NDArray[np.uint64],
    positions: Words,
    inverse_temperature: np.float32,
    greedy: bool,
) -> tuple[Words, Floats]:
    """(tokens, their scores) [B]: the first largest score of each row of logits [B, V].

    NaN counts as -infinity; where nothing is larger, the answer is token 0 with -infinity.
    """
    rows = max(1, BLOCK_SCORES // logits.shape[1])
    tokens, best = np.empty(len(logits), np.uint32), np.empty(len(logits), np.float32)
    for at in range(0, len(logits), rows):
        part = slice(at, at + rows)
        found = logits[part]
        if not greedy:
            noise = gumbel(seeds[part], positions[part], logits.shape[1])
            found = scores(found, noise, inverse_temperature)
        found = np.where(np.isnan(found), np.float32(-np.inf), found)
        tokens[part] = found.argmax(axis=1)
        best[part] = found[np.arange(len(found)), tokens[part]]
    return tokens, best


def philox(
    counter: tuple[Words, Words, Words, Words], key: tuple[Words, Words]
) -> tuple[Words, Words, Words, Words]:
    """Philox4x32-10 of broadcastable u32 arrays."""
    shape = np.broadcast_shapes(*(part.shape for part in (*counter, *key)))
    c0, c1, c2, c3 = (np.broadcast_to(part, shape) for part in counter)
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _product(c0, 0xD2511F53)
        high1, low1 = _product(c2, 0xCD9E8D57)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + np.uint32(0x9E3779B9), k1 + np.uint32(0xBB67AE85)  # arrays wrap
    return c0, c1, c2, c3


def _product(a: Words, b: int) -> tuple[Words, Words]:
    wide = a.astype(np.uint64) * np.uint64(b)
    return (wide >> np.uint64(32)).astype(np.uint32), wide.astype(np.uint32)


def gumbel_of_words(words: Words) -> Floats:
    """-ln(-ln u), u = x for words below 2³¹ and 1 - x above, x = (low 31 bits + ½)·2⁻³²."""
    low = (words & np.uint32(0x7FFFFFFF)).astype(np.int32)
    x = (low.astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32)  # in (0, ½]
    a = -_ln(x)
    return np.where(words >> np.uint32(31) != 0, a - _polynomial(_R, x) * x, -_ln(a))


def _ln(z: Floats) -> Floats:
    """Natural logarithm of positive normal numbers."""
    bits = z.view(np.int32)
    exponent = (bits - _SQRT_HALF_BITS) >> np.int32(23)
    f: Floats = (bits - (exponent << np.int32(23))).view(np.float32) - np.float32(1)
    e = exponent.astype(np.float32)
    square = f * f
    y = (square * f) * _polynomial(_Q, f)
    y = y + e * _LN2_LOW
    y = y - np.float32(0.5) * square
    y = y + f
    y = y + e * _LN2_HIGH
    return y


def _polynomial(coefficients: list[np.float32], x: Floats) -> Floats:
    value = np.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        value = value * x + c  # two roundings: NumPy never fuses
    return value
