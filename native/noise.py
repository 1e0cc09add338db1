"""Gumbel noise with fixed bits (twins/gumbel.py), for sampling that others replay."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from primed.native import compiled
from primed.native.arguments import check_array, check_range
from primed.native.twins import gumbel as twin

VOCABULARY_MAX = 1 << 24
THREADS_MAX = 64


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


def gumbel_choose(
    logits: Any,
    seeds: NDArray[np.uint64],
    positions: NDArray[np.uint32],
    temperature: float,
    threads: int = 1,
) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """(tokens u32 [B], scores f32 [B]): of each row the first largest logits · (1/T) + noise.

    logits: f32 [B, V], NumPy or (compiled) a CPU tensor by DLPack; seeds u64 [B]; positions u32
    [B]. T = 0 is the plain argmax. A NaN never wins. Nothing as large as the logits is written.
    """
    _check_rows(logits, seeds, positions)
    inverse, greedy = inverse_of(temperature), temperature == 0
    check_range("threads", threads, 1, THREADS_MAX)
    if compiled.ext is None:
        check_array("logits", logits, np.float32, 2)
        return twin.choose(logits, seeds, positions, inverse, greedy)
    held = np.ascontiguousarray(logits) if isinstance(logits, np.ndarray) else logits
    tokens, scores = np.empty(len(seeds), np.uint32), np.empty(len(seeds), np.float32)
    keys = np.ascontiguousarray(seeds), np.ascontiguousarray(positions)
    try:
        compiled.ext.gumbel_choose(held, *keys, float(inverse), greedy, threads, tokens, scores)
    except TypeError as error:  # a tensor that is not contiguous float32 in CPU memory
        raise ValueError("logits are not contiguous float32 [B, V] in CPU memory") from error
    return tokens, scores


def gumbel_scores_at(
    logits: NDArray[np.float32],
    tokens: NDArray[np.uint32],
    seeds: NDArray[np.uint64],
    positions: NDArray[np.uint32],
    temperature: float,
) -> NDArray[np.float32]:
    """The score f32 [B] of one token u32 [B] of each row, as `gumbel_choose` compares them."""
    check_array("logits", logits, np.float32, 2)
    check_array("tokens", tokens, np.uint32, 1)
    _check_rows(logits, seeds, positions)
    if len(tokens) != len(logits) or (len(tokens) and int(tokens.max()) >= logits.shape[1]):
        raise ValueError("tokens are not one id below the vocabulary per row of logits")
    chosen = logits[np.arange(len(tokens)), tokens]
    inverse = inverse_of(temperature)
    if temperature == 0:
        return chosen
    if compiled.ext is None:
        return twin.scores(chosen, twin.gumbel_at(seeds, positions, tokens), inverse)
    noise = np.empty(len(tokens), np.float32)
    keys = np.ascontiguousarray(seeds), np.ascontiguousarray(positions)
    compiled.ext.gumbel_at(*keys, np.ascontiguousarray(tokens), noise)
    return twin.scores(chosen, noise, inverse)


def gumbel_of_words(words: NDArray[np.uint32]) -> NDArray[np.float32]:
    """The noise [n] that each random word u32 [n] stands for."""
    check_array("words", words, np.uint32, 1)
    if compiled.ext is None:
        return twin.gumbel_of_words(words)
    out = np.empty(words.shape, np.float32)
    compiled.ext.gumbel_of_words(np.ascontiguousarray(words), out)
    return out


def _check_rows(logits: Any, seeds: object, positions: object) -> None:
    shape: tuple[int, ...] = tuple(getattr(logits, "shape", ()))
    name = str(getattr(logits, "dtype", type(logits)))
    if len(shape) != 2 or not name.endswith("float32") or not 1 <= shape[1] <= VOCABULARY_MAX:
        raise ValueError(f"logits are {name}{list(shape)}, not float32 [B, V]")
    check_array("seeds", seeds, np.uint64, 1)
    check_array("positions", positions, np.uint32, 1)
    assert isinstance(seeds, np.ndarray) and isinstance(positions, np.ndarray)
    if not len(seeds) == len(positions) == shape[0]:
        raise ValueError(f"{len(seeds)} seeds, {len(positions)} positions, {shape[0]} rows")


def inverse_of(temperature: float) -> np.float32:
    """1/T in fp32; of T = 0 it is not used."""
    if temperature == 0:
        return np.float32(0)
    if not (temperature > 0 and 1 / temperature <= float(np.finfo(np.float32).max)):
        raise ValueError(f"temperature {temperature} is not zero or a positive number fp32 can use")
    return np.float32(1 / temperature)
