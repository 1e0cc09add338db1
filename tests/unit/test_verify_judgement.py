"""The verdict on pooled measurements: two-sided bands, reasons, nothing decided by one rollout."""

from __future__ import annotations

import numpy as np
import pytest

from primed.verify.checks import judge
from primed.verify.judgement import FIXED_BANDS, LOGPROB_ERROR_CAP, logprob_error_sum, pooled
from primed.verify.runspec import Band, Thresholds
from primed.verify.sampling import SamplingScore
from primed.verify.toploc import ChunkScore

THRESHOLDS = Thresholds(
    sampling_mismatch=Band(accept=0.03, reject=0.1),
    sampling_margin=Band(accept=0.01, reject=0.1),
    proof_distance=Band(accept=2, reject=10),
    logprob_error=Band(accept=0.01, reject=0.1),
)
GOOD = {
    "sampling_mismatch": 0.03,
    "sampling_margin": 0.0,
    "proof_offset": 0.02,
    "proof_null": 0.1,
    "proof_distance": 2.0,
    "logprob_error": 0.0,
}


def test_all_at_or_below_accept_is_an_accept() -> None:
    assert judge(GOOD, THRESHOLDS) == ("accept", "ok")


@pytest.mark.parametrize(
    ("statistic", "value", "reason"),
    [
        ("sampling_mismatch", 0.4, "sampling"),
        ("sampling_margin", 0.5, "sampling"),
        ("proof_distance", 30.0, "proof"),
        ("proof_offset", 0.16, "proof"),
        ("proof_null", 1.0, "proof"),
        ("logprob_error", 1.0, "logprob"),
        ("logprob_error", float("inf"), "logprob"),
    ],
)
def test_any_above_reject_is_a_reject(statistic: str, value: float, reason: str) -> None:
    assert judge(GOOD | {statistic: value}, THRESHOLDS) == ("reject", reason)


@pytest.mark.parametrize("statistic", GOOD)
def test_between_the_thresholds_nothing_is_decided(statistic: str) -> None:
    reject = (FIXED_BANDS.get(statistic) or getattr(THRESHOLDS, statistic)).reject
    assert judge(GOOD | {statistic: reject}, THRESHOLDS)[0] == "inconclusive"
    assert judge(GOOD | {statistic: float("nan")}, THRESHOLDS)[0] == "inconclusive"


def test_sampling_is_named_before_proof_and_a_reject_before_doubt() -> None:
    bad = dict.fromkeys(GOOD, 1000.0)
    assert judge(bad, THRESHOLDS) == ("reject", "sampling")
    doubt = GOOD | {"sampling_mismatch": 0.05, "logprob_error": 1.0}
    assert judge(doubt, THRESHOLDS) == ("reject", "logprob")


def test_a_proof_that_does_not_decode_is_a_reject() -> None:
    assert judge(GOOD, THRESHOLDS, malformed_proofs=1) == ("reject", "proof")


def test_a_missing_measurement_is_our_own_mistake() -> None:
    with pytest.raises(KeyError):
        judge({"proof_distance": 0.0}, THRESHOLDS)


def test_measurements_are_pooled_by_tokens_and_values() -> None:
    """One short rollout that is all wrong does not weigh like a long one."""
    measured = pooled(
        [SamplingScore(99, 0, 0.0), SamplingScore(1, 1, 4.0)],
        [
            ChunkScore(128, 0, 0.0, 90, 1, 128 * 20.0, 128 * 64.0),
            ChunkScore(16, 16, 16 * 64.0, 10, 4, 16 * 64.0, 16 * 64.0),
        ],
        logprob_error_sums=2.0,
    )
    assert measured == {
        "sampling_mismatch": 0.01,
        "sampling_margin": 0.04,
        "proof_distance": pytest.approx(16 * 64 / 144),
        "proof_offset": 0.05,
        "proof_null": pytest.approx(16 * 64 / (128 * 20 + 16 * 64)),
        "logprob_error": 0.02,
    }
    assert judge(measured, THRESHOLDS)[0] == "inconclusive"


def test_nothing_measured_is_no_verdict() -> None:
    with pytest.raises(ValueError, match="no token"):
        pooled([], [ChunkScore(1, 0, 0.0)], 0.0)
    with pytest.raises(ValueError, match="no chunk"):
        pooled([SamplingScore(1, 0, 0.0)], [], 0.0)


def test_log_probability_errors_are_capped() -> None:
    stated = np.array([-1, -2, -90, -1, -1], np.float32)
    own = np.array([-1.5, -2, -1, np.nan, -np.inf], np.float32)
    assert logprob_error_sum(stated, own) == 0.5 + 3 * LOGPROB_ERROR_CAP
