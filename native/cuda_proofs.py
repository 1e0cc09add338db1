"""TOPLOC proofs and noise on CUDA devices: the same bytes as `proofs` and `noise` give.

Arrays are anything with DLPack in the memory of one CUDA device (torch tensors; patterns and proofs
as uint16), contiguous; the device must be the current one. The caller allocates outputs and names
the stream (torch's `current_stream().cuda_stream`). Nothing waits for it, so that what the arrays
hold is not looked at here: the kernels are safe for any content. Built with -DPRIMED_CUDA=ON;
`is_built` says whether it was. A failure of CUDA is a RuntimeError, wrong arguments are ValueErrors
or TypeErrors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from primed.native import compiled
from primed.native.noise import inverse_of

DeviceArray = Any  # __dlpack__ and __dlpack_device__
TOP_MAX = 1024  # k


def is_built() -> bool:
    """Whether the compiled module holds the CUDA kernels; says nothing about a device."""
    return hasattr(compiled.ext, "toploc_build_cuda")


def toploc_build(rows: DeviceArray, chunk_rows: int, k: int, out: DeviceArray, stream: int) -> None:
    """Proofs of the chunks of one completion's rows [n, H] (uint16, float16 or bfloat16).

    out: u16 [ceil(n / chunk_rows), 1 + k], see `proofs_of`; k <= 1024.
    """
    _built().toploc_build_cuda(rows, chunk_rows, k, out, stream)


def proofs_of(built: NDArray[np.uint16], sizes: Sequence[int]) -> list[bytes]:
    """The proofs of chunks with these numbers of elements, from `toploc_build`'s output on the host.

    Raises ValueError where no modulus keeps the top places of a chunk apart.
    """
    if built.ndim != 2 or len(built) != len(sizes):
        raise ValueError(f"{len(sizes)} sizes for proofs {list(built.shape)}")
    if not built[:, 0].all():
        raise ValueError("no modulus keeps the top places apart")
    k = built.shape[1] - 1
    return [
        row[: 1 + min(k, size)].astype(">u2").tobytes()
        for row, size in zip(built, sizes, strict=True)
    ]


def rows_of(proofs: Sequence[bytes], sizes: Sequence[int], k: int) -> NDArray[np.uint16]:
    """Hostile proofs as u16 [C, 1 + k] for `toploc_score`; zeros, a wrong modulus, for wrong lengths.

    sizes: elements of each chunk. Proofs of other chunks are as long as their own chunk says: pass
    `others` with sizes of their own.
    """
    out = np.zeros((len(proofs), 1 + k), np.uint16)
    for row, proof, size in zip(out, proofs, sizes, strict=True):
        if len(proof) == 2 + 2 * min(k, size):
            row[: len(proof) // 2] = np.frombuffer(proof, ">u2")
    return out


def toploc_score(
    rows: DeviceArray,
    chunk_rows: int,
    proofs: DeviceArray,
    others: DeviceArray,
    k: int,
    cap: int,
    out: DeviceArray,
    stream: int,
) -> None:
    """out i64 [C, 8] = proofs.toploc_score of the chunks of one completion's rows [n, H].

    proofs, others: u16 [C, 1 + k] of `rows_of`, a row of zeros in others for none.
    """
    _built().toploc_score_cuda(rows, chunk_rows, proofs, others, k, cap, out, stream)


def gumbel(seeds: DeviceArray, positions: DeviceArray, out: DeviceArray, stream: int) -> None:
    """out f32 [B, V] = noise.gumbel of seeds u64 [B] at positions u32 [B]."""
    _built().gumbel_cuda(seeds, positions, out, stream)


def gumbel_choose(
    logits: DeviceArray,
    seeds: DeviceArray,
    positions: DeviceArray,
    temperature: float,
    tokens: DeviceArray,
    scores: DeviceArray,
    stream: int,
) -> None:
    """tokens u32 [B] and scores f32 [B] = noise.gumbel_choose of logits f32 [B, V]."""
    inverse = float(inverse_of(temperature))
    greedy = temperature == 0
    _built().gumbel_choose_cuda(logits, seeds, positions, inverse, greedy, tokens, scores, stream)


def _built() -> Any:
    if not is_built():
        raise RuntimeError("primed.native was built without CUDA: see -DPRIMED_CUDA=ON")
    return compiled.ext
