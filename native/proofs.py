"""TOPLOC proofs (twins/toploc.py): build them, decode hostile ones, score them.

A chunk is [n, H] of 16-bit floating-point states: NumPy uint16 patterns or float16, or, with the
compiled module, any CPU tensor of bfloat16, float16 or uint16 by DLPack, read where it lies.
Proofs come from peers: their content never raises, it gives a status.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from primed.native import compiled
from primed.native.arguments import check_array, check_range
from primed.native.twins import toploc as twin
from primed.native.twins.toploc import PRIME, SCORE_COLUMNS

ELEMENTS_MAX = 1 << 30  # of one chunk
THREADS_MAX = 64
Chunk = Any  # an array as above; NumPy and torch share no type


def toploc_build(chunks: Sequence[Chunk], k: int, threads: int = 1) -> list[bytes]:
    """One proof per chunk [n, H]: modulus, then coefficients, u16 big-endian.

    Raises ValueError for anything that is not a list of chunks and 1 <= k <= 32748.
    """
    held = [_chunk(chunk) for chunk in chunks]
    check_range("k", k, 1, PRIME // 2)
    check_range("threads", threads, 1, THREADS_MAX)
    if compiled.ext is None:
        return twin.build(held, k)
    return compiled.ext.toploc_build(held, k, threads)


def toploc_decode(data: bytes, elements: int, k: int) -> tuple[int, int, NDArray[np.uint16]]:
    """(status, modulus, coefficients) of hostile bytes; status 0 is a proof of such a chunk."""
    return twin.decode(data, elements, k)


def toploc_score(
    chunks: Sequence[Chunk],
    proofs: Sequence[bytes],
    k: int,
    cap: int,
    others: Sequence[bytes] | None = None,
    threads: int = 1,
) -> NDArray[np.int64]:
    """Scores [C, len(SCORE_COLUMNS)] of hostile proofs against the verifier's own chunks [n, H].

    cap: most that one place can add to a distance, in ULP of the chunks' type. others: for each
    chunk a proof of another one, whose score says what a replay would reach; b"" for none.
    Raises ValueError for wrong chunks or lengths, never for what a proof holds.
    """
    held = [_chunk(chunk) for chunk in chunks]
    foreign = list(others) if others is not None else [b""] * len(held)
    check_range("k", k, 1, PRIME // 2)
    check_range("cap", cap, 1, 0x7FFF)
    check_range("threads", threads, 1, THREADS_MAX)
    if not len(held) == len(proofs) == len(foreign):
        raise ValueError(f"{len(held)} chunks, {len(proofs)} proofs, {len(foreign)} others")
    if compiled.ext is None:
        return twin.score(held, list(proofs), foreign, k, cap)
    out = np.empty((len(held), len(SCORE_COLUMNS)), np.int64)
    compiled.ext.toploc_score(held, list(proofs), foreign, k, cap, threads, out)
    return out


def toploc_top(chunk: Chunk, k: int) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
    """Flat indices and bit patterns of the min(k, n·H) largest magnitudes of a chunk [n, H].

    Ordered by magnitude, larger first; ties by the smaller index.
    """
    held = _chunk(chunk)
    check_range("k", k, 1, PRIME // 2)
    if compiled.ext is None:
        ordered, patterns = twin.top(held.reshape(1, -1), k)
        return ordered[0], patterns[0]
    count = min(k, held.shape[0] * held.shape[1])
    indices, values = np.empty(count, np.int64), np.empty(count, np.uint16)
    try:
        compiled.ext.toploc_top(held, indices, values)
    except TypeError as error:
        raise ValueError("a chunk is not a contiguous [n, H] array in CPU memory") from error
    return indices, values


def toploc_evaluate(coefficients: NDArray[np.uint16], x: NDArray[np.integer]) -> NDArray[np.uint16]:
    """The polynomial (ascending u16 [k], over GF(65497)) at non-negative integers x, any shape."""
    check_array("coefficients", coefficients, np.uint16, 1)
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "iu":
        raise ValueError("x is not an integer array")
    if not len(coefficients) or int(coefficients.max()) >= PRIME:
        raise ValueError(f"coefficients are not 1 or more numbers below {PRIME}")
    if x.size and int(x.min()) < 0:
        raise ValueError("x holds a negative place")
    residues = (x.astype(np.uint64) % PRIME).astype(np.uint16)
    if compiled.ext is None:
        return twin.evaluate(coefficients, residues)
    out = np.empty(x.size, np.uint16)
    compiled.ext.toploc_evaluate(np.ascontiguousarray(coefficients), residues.reshape(-1), out)
    return out.reshape(x.shape)


def _chunk(chunk: Chunk) -> Any:
    """A contiguous NumPy chunk of patterns, or a tensor for the compiled module to look at."""
    if not isinstance(chunk, np.ndarray) and compiled.ext is not None:
        if getattr(chunk, "ndim", None) != 2 or not hasattr(chunk, "__dlpack__"):
            raise ValueError(f"a chunk is {type(chunk).__name__}, not an array [n, H]")
        return chunk
    patterns = chunk.view(np.uint16) if getattr(chunk, "dtype", None) == np.float16 else chunk
    check_array("chunk", patterns, np.uint16, 2)
    check_range("elements of a chunk", patterns.size, 1, ELEMENTS_MAX)
    return np.ascontiguousarray(patterns)
