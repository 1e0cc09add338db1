"""The kernels of weights on CUDA devices: the same bytes as deltas, quantised and rounding give.

Arrays are anything with DLPack in the memory of one CUDA device (a torch tensor; bf16 as uint16),
one-dimensional and contiguous; the caller allocates outputs and names the stream (torch's
`current_stream().cuda_stream`). Only rounding does not wait for it. Nothing here imports torch.
Built with -DPRIMED_CUDA=ON; `is_built` says whether it was. A failure of CUDA is a RuntimeError.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from primed.native import compiled
from primed.native.errors import MalformedBytes

DeviceArray = Any  # __dlpack__ and __dlpack_device__


def is_built() -> bool:
    """Whether the compiled module holds the CUDA kernels; says nothing about a device."""
    return hasattr(compiled.ext, "delta_encode_cuda")


def bf16_of(values: DeviceArray, out: DeviceArray, stream: int) -> None:
    """out u16 [n] = bf16 of values f32 [n]. Does not wait."""
    _built().bf16_of_cuda(values, out, stream)


def average_bf16(
    rows: Sequence[DeviceArray], weights: NDArray[np.float64], out: DeviceArray, stream: int
) -> None:
    """rounding.average_bf16 of up to 128 rows u16 [n]; weights are on the host. Does not wait."""
    _built().average_bf16_cuda(list(rows), weights, out, stream)


def quantise(bits: int, values: DeviceArray, out: DeviceArray, stream: int) -> None:
    """out u8 [quantised_bytes] = quantised.quantise of values f32 [n]. ValueError as there."""
    if not _built().quantise_cuda(bits, values, out, stream):
        raise ValueError("a number is not finite, or too large to be quantised")


def dequantise(bits: int, data: DeviceArray, out: DeviceArray, stream: int) -> None:
    """out f32 [n] = the numbers of data u8. Raises MalformedBytes, and then `out` is as it was."""
    _dequantise(bits, data, out, False, stream)


def accumulate(bits: int, data: DeviceArray, out: DeviceArray, stream: int) -> None:
    """out f32 [n] += the numbers of data u8. Raises MalformedBytes, and then `out` is as it was."""
    _dequantise(bits, data, out, True, stream)


def encode(old: DeviceArray, new: DeviceArray, stream: int) -> tuple[bytes, list[int]]:
    """deltas.encode of two chunks u16 [n]."""
    made: tuple[bytes, list[int]] = _built().delta_encode_cuda(old, new, stream)
    return made


def apply(old: DeviceArray, changes: bytes, out: DeviceArray, stream: int) -> None:
    """deltas.apply to u16 [n]. Raises MalformedBytes."""
    try:
        _built().delta_apply_cuda(old, np.frombuffer(changes, np.uint8), out, stream)
    except ValueError as error:
        raise MalformedBytes(str(error)) from None


def _dequantise(bits: int, data: DeviceArray, out: DeviceArray, adds: bool, stream: int) -> None:
    if not _built().dequantise_cuda(bits, data, out, adds, stream):
        raise MalformedBytes("a step or a code that is never written")


def _built() -> Any:
    if not is_built():
        raise RuntimeError("primed.native was built without CUDA: see -DPRIMED_CUDA=ON")
    return compiled.ext
