"""Check 6: from what replaying a batch measured to an outcome.

All statistics are pooled over the batch before they meet a threshold; no single rollout is refused
for a soft one. Between the two thresholds of a band the outcome is `inconclusive`, so that another
kernel's rounding never turns a reject into an accept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from primed.verify.runspec import Band, Thresholds
from primed.verify.sampling import SamplingScore
from primed.verify.toploc import ChunkScore, proof_distance, proof_null, proof_offset

Outcome = Literal["accept", "reject", "inconclusive"]

LOGPROB_ERROR_CAP = 4.0  # nats: one absurd token does not decide a mean

# statistic -> reason of the reject, in the order in which reasons are given
_REASONS = {
    "sampling_mismatch": "sampling",
    "sampling_margin": "sampling",
    "proof_offset": "proof",
    "proof_null": "proof",
    "proof_distance": "proof",
    "logprob_error": "logprob",
}

# The same for every model: both compare a proof with what can be had without the states.
FIXED_BANDS = {
    # honest 1 to 5 % (the share of all numbers that are plausible), a constant 100 %
    "proof_offset": Band(accept=0.10, reject=0.15),
    # honest distances are a few ULP where knowing nothing costs half the cap; a constant or a
    # replay has 1 or more
    "proof_null": Band(accept=0.5, reject=0.8),
}


def logprob_error_sum(stated: NDArray[np.float32], own: NDArray[np.float32]) -> float:
    """Sum of the absolute errors of stated log-probabilities [n], each at most the cap."""
    error = np.abs(stated.astype(np.float64) - own.astype(np.float64))
    # A NaN of the verifier's own counts as the cap; stated ones are finite by check 1.
    return float(np.minimum(np.nan_to_num(error, nan=np.inf), LOGPROB_ERROR_CAP).sum())


def pooled(
    samplings: Iterable[SamplingScore], chunks: Iterable[ChunkScore], logprob_error_sums: float
) -> dict[str, float]:
    """The batch's measurements: means per token, or per top value, over all that was replayed.

    logprob_error_sums: sum over the same tokens as `samplings`. Raises ValueError if there are none.
    """
    tokens, mismatches, margin_sum = 0, 0, 0.0
    chunks = list(chunks)
    for score in samplings:
        tokens, mismatches = tokens + score.tokens, mismatches + score.mismatches
        margin_sum += score.margin_sum
    if not tokens:
        raise ValueError("no token was replayed")
    return {
        "sampling_mismatch": mismatches / tokens,
        "sampling_margin": margin_sum / tokens,
        "proof_distance": proof_distance(chunks),
        "proof_offset": proof_offset(chunks),
        "proof_null": proof_null(chunks),
        "logprob_error": logprob_error_sums / tokens,
    }


def judge(
    measurements: Mapping[str, float], thresholds: Thresholds, malformed_proofs: int = 0
) -> tuple[Outcome, str]:
    """(outcome, reason) of the pooled measurements; the reason of an accept is "ok".

    malformed_proofs: opened proofs that did not decode strictly; any is a reject, as no honest
    worker makes one. Raises KeyError if a measurement is missing.
    """
    if malformed_proofs:
        return "reject", "proof"
    bands = {name: FIXED_BANDS.get(name) or getattr(thresholds, name) for name in _REASONS}
    for name, reason in _REASONS.items():
        if measurements[name] > bands[name].reject:
            return "reject", reason
    for name, reason in _REASONS.items():
        if not measurements[name] <= bands[name].accept:  # NaN is neither
            return "inconclusive", reason
    return "accept", "ok"
