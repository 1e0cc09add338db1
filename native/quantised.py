"""Quantised numbers for outer synchronisation and the collective (twins/quantise.py): blocks of 64
fp32 numbers as a bf16 step and codes of 8, 4 or 2 bits; 8.25, 4.25 and 2.25 bits a number.

Blocks stand alone: the bytes of a row are those of its parts, cut at multiples of 64, joined.
Arrays are NumPy's, or CPU tensors by DLPack, read (and added to) where they lie.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from primed.native import compiled
from primed.native.arguments import as_numpy, check_array, check_range, plain
from primed.native.errors import MalformedBytes
from primed.native.twins import quantise as twin
from primed.native.twins.quantise import BLOCK, F32, U8

NUMBERS_MAX = 1 << 40

__all__ = ["BLOCK", "accumulate", "dequantise", "quantise", "quantised_bytes"]


def quantised_bytes(bits: int, count: int) -> int:
    """Bytes that `count` numbers become with 8, 4 or 2 bits a code."""
    _check_bits(bits)
    check_range("count", count, 0, NUMBERS_MAX)
    return twin.quantised_bytes(bits, count)


def quantise(bits: int, values: F32) -> U8:
    """Bytes of the numbers f32 [n]. ValueError if one is not finite, or within 1 % of the largest
    fp32 number."""
    _check_bits(bits)
    values = as_numpy(values)
    check_array("values", values, np.float32, 1)
    values = plain(values)
    if compiled.ext is None:
        made = twin.quantise(bits, values)
    else:
        out = np.empty(twin.quantised_bytes(bits, len(values)), np.uint8)
        made = out if compiled.ext.quantise(bits, values, out) else None
    if made is None:
        raise ValueError("a number is not finite, or too large to be quantised")
    return made


def dequantise(bits: int, data: U8 | bytes, count: int) -> F32:
    """The `count` numbers of bytes from anywhere. Raises MalformedBytes."""
    check_range("count", count, 0, NUMBERS_MAX)
    array = _checked(bits, data, count)
    if compiled.ext is None:
        return _from_twin(bits, array, count)
    out = np.empty(count, np.float32)
    if not compiled.ext.dequantise(bits, array, out):
        raise _malformed()
    return out


def accumulate(bits: int, data: U8 | bytes, out: NDArray[np.float32]) -> None:
    """Add the len(out) numbers of bytes from anywhere to `out`. Raises MalformedBytes, and then
    `out` is as it was."""
    out = as_numpy(out)
    check_array("out", out, np.float32, 1)
    if not out.flags.c_contiguous or not out.flags.writeable:
        raise ValueError("out is not contiguous and writeable")
    array = _checked(bits, data, len(out))
    if compiled.ext is None:
        out += _from_twin(bits, array, len(out))
    elif not compiled.ext.accumulate(bits, array, out):
        raise _malformed()


def _checked(bits: int, data: U8 | bytes, count: int) -> U8:
    _check_bits(bits)
    array = (
        np.frombuffer(data, np.uint8) if isinstance(data, bytes | memoryview) else as_numpy(data)
    )
    check_array("data", array, np.uint8, 1)
    if len(array) != (wanted := twin.quantised_bytes(bits, count)):
        raise MalformedBytes(f"{len(array)} bytes where {count} numbers need {wanted}")
    return plain(array)


def _from_twin(bits: int, data: U8, count: int) -> F32:
    numbers = twin.dequantise(bits, data, count)
    if numbers is None:
        raise _malformed()
    return numbers


def _malformed() -> MalformedBytes:
    return MalformedBytes("a step or a code that is never written")


def _check_bits(bits: int) -> None:
    if bits not in (8, 4, 2):
        raise ValueError(f"bits = {bits} is not 8, 4 or 2")
