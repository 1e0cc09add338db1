"""Gumbel noise with fixed bits (twins/gumbel.py), for sampling that others replay."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from primed.native import compiled
from primed.native.arguments import check_array, check_range
from primed.native.twins import gumbel as twin

VOCABULARY_MAX = 1 << 24


def gumbel(
    seeds: NDArray[np.uint64], positions: NDArray[np.uint32], vocabulary: int
) -> NDArray[np.float32]:
    """Gumbel noise [B, vocabulary] of each (seed, position): Philox4x32-10 words, fixed fp32 steps.

    seeds: u64 [B]; positions: u32 [B], absolute index of the token that is sampled.
    """
    check_array("seeds", seeds, np.uint64, 1)
    check_array("positions", positions, np.uint32, 1)
    if len(seeds) != len(positions):
        raise ValueError(f"{len(seeds)} seeds for {len(positions)} positions")
    check_range("vocabulary", vocabulary, 1, VOCABULARY_MAX)
    if compiled.ext is None:
        return twin.gumbel(seeds, positions, vocabulary)
    out = np.empty((len(seeds), vocabulary), np.float32)
    compiled.ext.gumbel(np.ascontiguousarray(seeds), np.ascontiguousarray(positions), out)
    return out


def gumbel_of_words(words: NDArray[np.uint32]) -> NDArray[np.float32]:
    """The noise [n] that each random word u32 [n] stands for."""
    check_array("words", words, np.uint32, 1)
    if compiled.ext is None:
        return twin.gumbel_of_words(words)
    out = np.empty(words.shape, np.float32)
    compiled.ext.gumbel_of_words(np.ascontiguousarray(words), out)
    return out
