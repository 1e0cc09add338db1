"""Figures of TOPLOC proofs and Gumbel noise. Called by benchmarks.native.

Chunks are 32 x 5120 bf16 with k = 128, many of them one after the other, more than the last-level
cache holds: the kernels and the baseline, NumPy's sum over the same bytes as u64 in one call, both
read from memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Figure, cpu_seconds, wall_seconds
from primed import native
from primed.native.twins import gumbel as noise_twin
from primed.native.twins import toploc as toploc_twin

CHUNKS, DISTINCT, ROWS, WIDTH, K, CAP = 256, 16, 32, 5120, 128, 64
SEQUENCES, VOCABULARY = 64, 150_000
TWIN_CHUNKS, TWIN_SEQUENCES = 8, 4


def figures() -> Iterator[Figure]:
    """All of this module's figures, about 15 CPU-seconds."""
    yield from proof_figures()
    yield from noise_figures()


def states() -> NDArray[np.uint16]:
    """Gaussian bf16 patterns [CHUNKS, ROWS, WIDTH], repeated in memory of their own."""
    draw = np.random.default_rng(0).standard_normal((DISTINCT, ROWS, WIDTH), np.float32)
    patterns = (draw.view(np.uint32) >> 16).astype(np.uint16)
    return np.tile(patterns, (CHUNKS // DISTINCT, 1, 1))


def proof_figures() -> Iterator[Figure]:
    held = states()
    chunks, words = list(held), held.view(np.uint64)
    proofs = native.toploc_build(chunks, K)
    others = proofs[1:] + proofs[:1]
    read, build, verify, build2 = (
        seconds * 1e6 / CHUNKS
        for seconds in wall_seconds(
            lambda: words.sum(),
            lambda: native.toploc_build(chunks, K),
            lambda: native.toploc_score(chunks, proofs, K, CAP, others),
            lambda: native.toploc_build(chunks, K, threads=2),
        )
    )
    some = chunks[:TWIN_CHUNKS]
    twin, compiled = wall_seconds(
        lambda: toploc_twin.build(some, K), lambda: native.toploc_build(some, K)
    )
    memory = {"memory_read_us": round(read, 2), "chunks": CHUNKS, "backend": native.backend()}
    unit = "us/chunk"
    yield Figure("toploc_build", build, unit, "lower", read, 3.0, "ratio", memory)
    yield Figure("toploc_verify", verify, unit, "lower", read, 2.5, "ratio", memory)
    yield Figure("toploc_build.cpu2", build2, unit, "lower", build, 0.6, "ratio", {"threads": 2})
    yield Figure("toploc_build_vs_numpy", twin / compiled, "x", "higher", 1.0)


def noise_figures() -> Iterator[Figure]:
    draw = np.random.default_rng(1)
    logits = draw.standard_normal((SEQUENCES, VOCABULARY), np.float32)
    seeds = draw.integers(0, 1 << 64, SEQUENCES, np.uint64)
    positions = draw.integers(0, 1 << 17, SEQUENCES, np.uint32)
    few = slice(TWIN_SEQUENCES)
    choose, noise, twin = cpu_seconds(
        lambda: native.gumbel_choose(logits, seeds, positions, 1.0),
        lambda: native.gumbel(seeds, positions, VOCABULARY),
        lambda: noise_twin.choose(logits[few], seeds[few], positions[few], np.float32(1), False),
    )
    numpy_rate = TWIN_SEQUENCES * VOCABULARY / twin
    rates = {"gumbel_rate": choose, "gumbel_rate.noise_alone": noise}
    about = {"sequences": SEQUENCES, "vocabulary": VOCABULARY, "backend": native.backend()}
    for name, seconds in rates.items():
        rate, unit = logits.size / seconds, "entries/core-s"
        yield Figure(name, rate, unit, "higher", numpy_rate, 150e6, about=about)
