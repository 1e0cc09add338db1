"""Replayable sampling: one definition on both sides, ties, infinities, NaN, termination."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from primed import native
from primed.verify.sampling import MARGIN_CAP, SamplingScore, choose, replay

Floats = NDArray[np.float32]
EOS, SEED, PROMPT_TOKENS = 2, 0xFEDCBA9876543210, 11


def logits_of(n: int, vocabulary: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(0, 2, (n, vocabulary)).astype(np.float32)


def sample(logits: Floats, temperature: float) -> NDArray[np.uint32]:
    """As an engine does it, one row at a time."""
    positions = np.arange(PROMPT_TOKENS, PROMPT_TOKENS + len(logits), dtype=np.uint32)
    seed = np.array([SEED], np.uint64)
    steps = [
        choose(logits[i : i + 1], seed, positions[i : i + 1], temperature)[0]
        for i in range(len(logits))
    ]
    return np.array(steps, np.uint32)


@pytest.mark.parametrize("temperature", [0, 0.3, 1.0, 4.0])
def test_what_an_engine_chose_replays_without_a_mismatch(temperature: float) -> None:
    logits = logits_of(50, 1000)
    tokens = sample(logits, temperature)
    assert replay(logits, tokens, SEED, PROMPT_TOKENS, temperature) == SamplingScore(50, 0, 0.0)


def test_choice_follows_the_softmax() -> None:
    """Gumbel-max: 40,000 draws of one distribution, within five standard errors."""
    row = logits_of(1, 8, seed=3)
    n = 40_000
    tokens = choose(
        np.broadcast_to(row, (n, 8)), np.full(n, 5, np.uint64), np.arange(n, dtype=np.uint32), 1.0
    )
    share = np.bincount(tokens, minlength=8) / n
    softmax = np.exp(row[0]) / np.exp(row[0]).sum()
    assert (np.abs(share - softmax) < 5 * np.sqrt(softmax / n)).all()


def test_other_seed_position_or_logits_do_not_replay() -> None:
    logits = logits_of(200, 50)
    tokens = sample(logits, 1.0)
    for wrong in (
        replay(logits, tokens, SEED + 1, PROMPT_TOKENS, 1.0),
        replay(logits, tokens, SEED, PROMPT_TOKENS + 1, 1.0),
        replay(logits_of(200, 50, seed=9), tokens, SEED, PROMPT_TOKENS, 1.0),
    ):
        assert wrong.mismatches > 100
        assert wrong.margin_sum > 100


def test_tokens_of_another_models_greedy_choice_do_not_replay() -> None:
    logits = logits_of(200, 50)
    greedy = logits.argmax(axis=1).astype(np.uint32)
    assert replay(logits, greedy, SEED, PROMPT_TOKENS, 1.0).mismatches > 60


def test_small_differences_cost_small_margins() -> None:
    """Another kernel's rounding flips few tokens, and those by little."""
    logits = logits_of(500, 50)
    noise = np.random.default_rng(1).normal(0, 0.01, logits.shape).astype(np.float32)
    score = replay(logits + noise, sample(logits, 1.0), SEED, PROMPT_TOKENS, 1.0)
    assert score.mismatches < 15
    assert score.margin_sum < 0.05 * max(score.mismatches, 1)


def test_ties_go_to_the_smaller_id() -> None:
    logits = np.array([[1, 3, 3, 3]], np.float32)
    zero, first = np.zeros(1, np.uint64), np.zeros(1, np.uint32)
    assert choose(logits, zero, first, 0).tolist() == [1]
    assert replay(logits, np.array([2], np.uint32), 0, 0, 0) == SamplingScore(1, 1, 0.0)


def test_margin_is_in_units_of_the_scores_and_capped() -> None:
    logits = np.array([[0, 1.5], [0, 90], [-np.inf, 0]], np.float32)
    score = replay(logits, np.zeros(3, np.uint32), 0, 0, 0)
    assert score == SamplingScore(3, 3, 1.5 + 2 * MARGIN_CAP)


def test_a_claimed_and_a_skipped_eos_are_mismatches() -> None:
    """Termination is part of sampling: scenario of a worker that stops early or goes on."""
    logits = logits_of(40, 12)
    tokens = sample(logits, 1.0)
    early = tokens.copy()
    place = int(np.flatnonzero(tokens != EOS)[5])
    early[place] = EOS
    assert replay(logits[: place + 1], early[: place + 1], SEED, PROMPT_TOKENS, 1.0).mismatches == 1
    skipped = tokens.copy()
    place = int(np.flatnonzero(tokens == EOS)[0])
    skipped[place] = 3
    assert replay(logits, skipped, SEED, PROMPT_TOKENS, 1.0).mismatches == 1


@given(
    hnp.arrays(np.float32, (3, 7), elements=st.floats(width=32)),
    st.lists(st.integers(0, 6), min_size=3, max_size=3),
    st.sampled_from([0.0, 1e-30, 0.5, 1.0, 4.0]),
)
def test_any_logits_give_finite_scores(logits: Floats, ids: list[int], temperature: float) -> None:
    """NaN, infinities, denormals and -0 included."""
    tokens = np.array(ids, np.uint32)
    score = replay(logits, tokens, SEED, 0, temperature)
    assert 0 <= score.margin_sum <= MARGIN_CAP * score.mismatches
    chosen = choose(logits, np.full(3, SEED, np.uint64), np.arange(3, dtype=np.uint32), temperature)
    assert score.mismatches == int((chosen != tokens).sum())


def test_nan_never_wins() -> None:
    logits = np.array([[np.nan, 1, 2], [np.nan, np.nan, np.nan]], np.float32)
    zeros = np.zeros(2, np.uint64), np.zeros(2, np.uint32)
    assert choose(logits, *zeros, 0).tolist() == [2, 0]
    assert 0 not in choose(logits[:1], zeros[0][:1], zeros[1][:1], 1.0)
    assert replay(logits[:1], np.zeros(1, np.uint32), 0, 0, 0) == SamplingScore(1, 1, MARGIN_CAP)


def test_score_is_the_documented_expression() -> None:
    logits = logits_of(4, 33, seed=5)
    seeds, positions = np.arange(4, dtype=np.uint64), np.arange(4, dtype=np.uint32)
    noise = native.gumbel(seeds, positions, 33)
    expected = (logits * np.float32(1 / 0.7) + noise).argmax(axis=1)
    assert choose(logits, seeds, positions, 0.7).tolist() == expected.tolist()


@pytest.mark.parametrize("temperature", [-1.0, float("nan"), float("inf"), 1e-45])
def test_unusable_temperatures_are_value_errors(temperature: float) -> None:
    if temperature == float("inf"):  # 1/T = 0: the noise alone decides
        assert len(sample(logits_of(2, 4), temperature)) == 2
        return
    with pytest.raises(ValueError, match="temperature"):
        sample(logits_of(1, 4), temperature)


def test_wrong_shapes_are_value_errors() -> None:
    logits = logits_of(2, 4)
    with pytest.raises(ValueError, match="tokens"):
        replay(logits, np.array([0, 4], np.uint32), 0, 0, 1.0)
    with pytest.raises(ValueError, match="tokens"):
        replay(logits, np.array([0], np.uint32), 0, 0, 1.0)
    with pytest.raises(ValueError, match="logits"):
        replay(logits.astype(np.float64), np.zeros(2, np.uint32), 0, 0, 1.0)
    with pytest.raises(ValueError, match="seeds"):
        choose(logits, np.zeros(1, np.uint64), np.zeros(1, np.uint32), 1.0)
