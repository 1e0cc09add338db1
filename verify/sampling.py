"""Sampling that can be replayed: one definition for the engine that samples and for its verifiers.

token = argmax(logits · (1/T) + g) in fp32, ties to the smaller id; T = 0 is the plain argmax. g is
the noise of `primed.native.gumbel` at (seed, absolute index of the sampled token). The engine calls
`choose` with its own logits; a verifier calls `replay` with the logits of its own prefill and counts
the tokens that are not its choice. EOS is a token like any other: claimed where it is not the
noisy argmax, or skipped where it is, it is a mismatch. A NaN score never wins.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from primed import native

# A token that loses by more is simply wrong: e^-4 of its share. The cap keeps one absurd logit
# (or an infinite one) from deciding a pooled mean.
MARGIN_CAP = 4.0

_BLOCK_SCORES = 1 << 22  # scores held at once: 16 MiB of noise


class SamplingScore(Struct, frozen=True):
    """Of one completion: tokens replayed, how many are not the noisy argmax, and the sum of the
    margins by which they lose, each at most MARGIN_CAP, in units of logits / T (of logits at T = 0).
    """

    tokens: int
    mismatches: int
    margin_sum: float


def choose(
    logits: NDArray[np.float32],
    seeds: NDArray[np.uint64],
    positions: NDArray[np.uint32],
    temperature: float,
) -> NDArray[np.uint32]:
    """The sampled token u32 [B] of each row of logits f32 [B, V], at u32 [B] absolute positions.

    Raises ValueError for wrong shapes, types or a temperature that fp32 cannot divide by.
    """
    _check_logits(logits)
    return _argmax(_scores(logits, seeds, positions, temperature))


def replay(
    logits: NDArray[np.float32],
    tokens: NDArray[np.uint32],
    seed: int,
    first_position: int,
    temperature: float,
) -> SamplingScore:
    """Score a completion u32 [n] against the verifier's logits f32 [n, V] at the same places.

    first_position: absolute index of tokens[0], which is the prompt's length. Raises ValueError
    for a token outside the vocabulary (refused before, by the check `counts`).
    """
    _check_logits(logits)
    n, vocabulary = logits.shape
    if tokens.shape != (n,) or (n and int(tokens.max()) >= vocabulary):
        raise ValueError("tokens are not one id below the vocabulary per row of logits")
    positions = np.arange(first_position, first_position + n).astype(np.uint32)
    seeds = np.full(n, seed, np.uint64)
    mismatches, margin_sum = 0, 0.0
    rows = max(1, _BLOCK_SCORES // vocabulary)
    for at in range(0, n, rows):
        part = slice(at, at + rows)
        scores = _scores(logits[part], seeds[part], positions[part], temperature)
        margins = _margins(scores, tokens[part])
        mismatches += len(margins)
        margin_sum += float(margins.sum(dtype=np.float64))
    return SamplingScore(n, mismatches, margin_sum)


def _check_logits(logits: NDArray[np.float32]) -> None:
    if logits.ndim != 2 or logits.dtype != np.float32 or logits.shape[1] == 0:
        raise ValueError(f"logits are {logits.dtype}{list(logits.shape)}, not float32 [B, V]")


def _scores(
    logits: NDArray[np.float32],
    seeds: NDArray[np.uint64],
    positions: NDArray[np.uint32],
    temperature: float,
) -> NDArray[np.float32]:
    if temperature == 0:
        return logits
    if not (temperature > 0 and 1 / temperature <= float(np.finfo(np.float32).max)):
        raise ValueError(f"temperature {temperature} is not zero or a positive number fp32 can use")
    noise = native.gumbel(seeds, positions, logits.shape[1])
    if noise.shape != logits.shape:
        raise ValueError(f"{len(noise)} seeds for {len(logits)} rows of logits")
    with np.errstate(over="ignore", invalid="ignore"):
        return logits * np.float32(1 / temperature) + noise


def _argmax(scores: NDArray[np.float32]) -> NDArray[np.uint32]:
    """First place of each row's largest score. NumPy lets the first NaN win: then look again."""
    best = scores.argmax(axis=1)
    if np.isnan(scores[np.arange(len(scores)), best]).any():
        best = np.where(np.isnan(scores), np.float32(-np.inf), scores).argmax(axis=1)
    chosen: NDArray[np.uint32] = best.astype(np.uint32)
    return chosen


def _margins(scores: NDArray[np.float32], tokens: NDArray[np.uint32]) -> NDArray[np.float32]:
    """By how much each token that is not the choice loses; one entry per mismatch."""
    best = _argmax(scores)
    wrong = np.flatnonzero(best != tokens)
    with np.errstate(invalid="ignore", over="ignore"):
        lost = scores[wrong, best[wrong]] - scores[wrong, tokens[wrong]]
    lost = np.where(np.isnan(lost), np.float32(MARGIN_CAP), lost)
    capped: NDArray[np.float32] = np.minimum(lost, np.float32(MARGIN_CAP))
    return capped
