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
    return native.gumbel_choose(logits, seeds, positions, temperature)[0]


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
    if logits.ndim != 2 or tokens.shape != (len(logits),):
        raise ValueError("tokens are not one id per row of logits")
    n = len(tokens)
    positions = np.arange(first_position, first_position + n).astype(np.uint32)
    seeds = np.full(n, seed, np.uint64)
    choice, best = native.gumbel_choose(logits, seeds, positions, temperature)
    own = native.gumbel_scores_at(logits, tokens, seeds, positions, temperature)
    margins = _margins(best[choice != tokens], own[choice != tokens])
    return SamplingScore(n, len(margins), float(margins.sum(dtype=np.float64)))


def _margins(best: NDArray[np.float32], own: NDArray[np.float32]) -> NDArray[np.float32]:
    """By how much each token that is not the choice loses."""
    with np.errstate(invalid="ignore", over="ignore"):
        lost = best - own
    lost = np.where(np.isnan(lost), np.float32(MARGIN_CAP), lost)
    capped: NDArray[np.float32] = np.minimum(lost, np.float32(MARGIN_CAP))
    return capped
