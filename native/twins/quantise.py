"""Quantised numbers: blocks of 64 fp32 numbers as one bf16 step and 64 codes of 8, 4 or 2 bits.

With top = 127, 7 or 1 the largest code: step = max|x| / top in fp32, rounded up to bf16 (no number
lies beyond the largest code); code = x / step in fp32, rounded to the nearest integer, ties to
even; a step of zero divides as one. The number is code x step, which fp32 holds exactly: a fused
multiply-add gives the same bits as a product and a sum. 2 bits are the ternary code of
algorithms.md section 8 (2.25 bits a number), 8 and 4 those of section 9.

A block in bytes: the step little-endian, then byte j with the codes of numbers j, j + m, j + 2m ...
(m = 64 * bits / 8) from its lowest bits up; 4-bit codes plus 8, 2-bit codes plus 1. The last block
is filled up with zeros. Numbers that are not finite, or so large that top x step is not, are
refused; so are bytes that cannot have been written.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK = 64
U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]

_TOP = {8: 127, 4: 7, 2: 1}
_OFFSET = {8: 0, 4: 8, 2: 1}
_UNUSED = {8: 0x80, 4: 0, 2: 3}
STEP_MAX = {8: 0x7C01, 4: 0x7E12, 2: 0x7F7F}  # largest bf16 whose product with top is finite


def quantised_bytes(bits: int, count: int) -> int:
    return -(-count // BLOCK) * (2 + BLOCK * bits // 8)


def quantise(bits: int, values: F32) -> U8 | None:
    """Bytes of fp32 numbers [n]; None if one is not finite or too large."""
    blocks = np.zeros((-(-len(values) // BLOCK), BLOCK), np.float32)
    blocks.reshape(-1)[: len(values)] = values
    top = (blocks.view(np.uint32) & np.uint32(0x7FFFFFFF)).max(axis=1, initial=0)  # NaN is largest
    with np.errstate(under="ignore", invalid="ignore"):
        exact = top.view(np.float32) / np.float32(_TOP[bits])
    step = (exact.view(np.uint32) + np.uint32(0xFFFF)) >> np.uint32(16)
    if step.max(initial=0) > STEP_MAX[bits]:
        return None
    divisor = np.where(step == 0, np.float32(1), _as_float(step))
    with np.errstate(under="ignore"):
        codes = np.rint(blocks / divisor[:, None]).astype(np.int8)
    planes = (codes.view(np.uint8) + np.uint8(_OFFSET[bits])).reshape(
        len(blocks), 8 // bits, BLOCK * bits // 8
    )
    out = np.zeros((len(blocks), 2 + BLOCK * bits // 8), np.uint8)
    out[:, :2] = step.astype("<u2")[:, None].view(np.uint8)
    for k in range(8 // bits):
        out[:, 2:] |= planes[:, k] << np.uint8(bits * k)
    return out.reshape(-1)


def dequantise(bits: int, data: U8, count: int) -> F32 | None:
    """The `count` numbers that the bytes stand for; None if quantise cannot have written them."""
    blocks = data.reshape(-(-count // BLOCK), 2 + BLOCK * bits // 8)
    step = np.ascontiguousarray(blocks[:, :2]).view("<u2").astype(np.uint32)  # [B, 1]
    mask = np.uint8((1 << bits) - 1)
    planes = [(blocks[:, 2:] >> np.uint8(bits * k)) & mask for k in range(8 // bits)]
    stored = np.concatenate(planes, axis=1)  # [B, 64]
    codes = (stored - np.uint8(_OFFSET[bits])).view(np.int8)
    is_bad = step.max(initial=0) > STEP_MAX[bits] or np.any(stored == _UNUSED[bits])
    if is_bad or np.any(codes.reshape(-1)[count:]):
        return None
    numbers: F32 = codes.astype(np.float32) * _as_float(step)
    return numbers.reshape(-1)[:count]


def _as_float(bf16: NDArray[np.uint32]) -> F32:
    return (bf16 << np.uint32(16)).view(np.float32)
