"""The GRPO loss against NumPy by hand, packing against samples alone, alarms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from primed.training import alarms, demo, grpo, learner, models, packing
from primed.training.packing import Sample
from primed.verify.runspec import MICRO, Training
from primed.verify.signing import peer_id_of
from tests.unit.training_runs import LOOSE

TRAINING = Training(delta=4.0, eps_low=0.2, eps_high=0.3, kl=0.5)


def by_hand(now: float, batch: float, advantage: float) -> float:
    """The formula of algorithms.md section 1, for one token."""
    ratio = np.exp(now - batch)
    bounded = min(ratio, TRAINING.delta) * advantage
    clipped = min(max(ratio, 1 - TRAINING.eps_low), 1 + TRAINING.eps_high) * advantage
    return float(-min(bounded, clipped))


def test_losses_equal_the_formula_on_a_grid() -> None:
    grid = [
        (n, b, a) for n in (-9.0, -1.1, -1.0, -0.1) for b in (-1.0, -8.0) for a in (-2.0, 0, 1.5)
    ]
    now, batch, advantages = (torch.tensor(column) for column in zip(*grid, strict=True))
    losses = grpo.policy_losses(grpo.ratios(now, batch), advantages, TRAINING)
    assert losses.tolist() == pytest.approx([by_hand(*row) for row in grid], rel=1e-5)


def test_both_sides_of_the_clip_stop_the_gradient() -> None:
    """Ratios: far above with A > 0 (clipped at 1.3); far below with A < 0 (clipped at 0.8); far
    above with A < 0, which one-sided clipping lets explode (bounded by delta); 1 (free)."""
    now = torch.tensor([-0.1, -6.0, -0.1, -1.0], requires_grad=True)
    batch = torch.tensor([-3.0, -1.0, -8.0, -1.0])
    advantages = torch.tensor([1.0, -1.0, -1.0, 1.0])
    losses = grpo.policy_losses(grpo.ratios(now, batch), advantages, TRAINING)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert losses.tolist() == pytest.approx([-1.3, 0.8, 4.0, -1.0])
    assert now.grad is not None
    assert now.grad.tolist() == pytest.approx([0.0, 0.0, 0.0, -1.0])


def test_absurd_ratios_keep_gradients_finite() -> None:
    now = torch.tensor([-0.1, -100.0], requires_grad=True)
    batch = torch.tensor([-99.0, -0.1])
    losses = grpo.policy_losses(grpo.ratios(now, batch), torch.tensor([-1.0, 1.0]), TRAINING)
    (losses + grpo.divergences(now, batch)).sum().backward()  # type: ignore[no-untyped-call]
    assert now.grad is not None and bool(now.grad.isfinite().all())


def test_divergence_is_k3() -> None:
    now, other = torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -1.0])
    expected = [np.exp(-0.5) - 1 + 0.5, np.exp(1.0) - 1 - 1.0]
    assert grpo.divergences(now, other).tolist() == pytest.approx(expected, rel=1e-5)


def test_advantages_are_recomputed_in_the_group() -> None:
    rewards = [0, MICRO, MICRO, 0, 0]
    values = np.array([0, 1, 1, 0, 0.0])
    centred = values - values.mean()
    assert grpo.advantages_of(rewards, dr_grpo=True) == pytest.approx(centred)
    scaled = centred / (values.std(ddof=1) + 1e-6)
    assert grpo.advantages_of(rewards, dr_grpo=False) == pytest.approx(scaled)
    assert not grpo.advantages_of([MICRO] * 4, dr_grpo=False).any()
    assert not grpo.advantages_of([MICRO], dr_grpo=False).any()


def test_entropy_of_a_uniform_row() -> None:
    row = torch.log_softmax(torch.zeros(1, 8), -1)
    assert grpo.entropies(row).item() == pytest.approx(np.log(8))


# ---- packing -------------------------------------------------------------------------------


@given(st.lists(st.integers(2, 40), min_size=1, max_size=60))
def test_rows_hold_every_sample_once_and_first_fit_is_tight(lengths: list[int]) -> None:
    rows = packing.rows_of(lengths, 40)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    used = [sum(lengths[i] for i in row) for row in rows]
    assert max(used) <= 40
    assert sum(space <= 20 for space in used) <= 1, "two half-empty rows would have been one"


def test_a_sample_that_fits_no_row_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        packing.rows_of([41], 40)


def random_samples(count: int, seed: int) -> list[Sample]:
    draw = np.random.default_rng(seed)
    samples = []
    for _ in range(count):
        prompt, n = int(draw.integers(1, 7)), int(draw.integers(1, 8))
        tokens = draw.integers(3, 26, prompt + n)
        samples.append(Sample(tokens, prompt, -draw.random(n, np.float32), float(draw.normal())))
    return samples


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000), max_tokens=st.sampled_from([16, 31, 64]))
def test_packing_does_not_change_loss_or_gradient(seed: int, max_tokens: int) -> None:
    spec = demo.run_spec(peer_id_of(bytes(32)), bytes(32), thresholds=LOOSE)
    model, reference = models.initialise(spec.model, seed), models.initialise(spec.model, seed + 1)
    samples = random_samples(9, seed)

    def total(rows: list[list[Sample]]) -> tuple[float, torch.Tensor]:
        model.zero_grad()
        loss, sums, _ = learner.loss_of(model, reference, packing.pack(rows), spec)
        loss.backward()  # type: ignore[no-untyped-call]
        grad = model.model.layers[0].self_attn.q_proj.weight.grad
        assert grad is not None and sums["kl"] > 0
        return float(loss.detach()), grad.clone()

    alone = [total([[sample]]) for sample in samples]
    rows = packing.rows_of([len(sample.tokens) for sample in samples], max_tokens)
    loss, grad = total([[samples[i] for i in row] for row in rows])
    assert loss == pytest.approx(sum(value for value, _ in alone), rel=1e-4, abs=1e-5)
    assert torch.allclose(grad, torch.stack([g for _, g in alone]).sum(0), rtol=1e-3, atol=1e-6)


# ---- alarms --------------------------------------------------------------------------------


def metrics(**changes: float) -> dict[str, float]:
    return {"clip_fraction": 0.05, "entropy": 0.5, "grad_norm": 1.0} | changes


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"clip_fraction": 0.4}, "clipped"),
        ({"entropy": 1.2}, "entropy"),
        ({"grad_norm": 11}, "norm"),
    ],
)
def test_alarms_name_the_figure_once_the_trend_is_known(
    change: dict[str, float], word: str
) -> None:
    trend = alarms.Trend()
    assert alarms.observe(trend, metrics(**change))[1] == ""
    for _ in range(alarms.SETTLE_STEPS):
        trend, alarm = alarms.observe(trend, metrics())
        assert alarm == ""
    assert word in alarms.observe(trend, metrics(**change))[1]
