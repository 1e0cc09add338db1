"""Two-sided GRPO: advantages within a group and the loss of each token.

algorithms.md section 1: with r = exp(logp_now - logp_batch), a token costs
-min(min(r, delta)·A, clip(r, 1 - eps_low, 1 + eps_high)·A) plus the k3 estimate of the KL to the
reference. The second side (delta) keeps a negative advantage with a huge ratio from exploding,
as in the INTELLECT-2 report. Pure functions of tensors; the learner sums and scales.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from primed.verify.runspec import MICRO, Training

# exp beyond this is no ratio but an error; clamping keeps inf · 0 out of the gradient.
LOG_RATIO_MAX = 20.0
KL_MAX = 10.0  # per token: one token that the reference finds impossible must not lead the step


def advantages_of(rewards_micro: Sequence[int], dr_grpo: bool) -> NDArray[np.float64]:
    """(r - mean) / (std + 1e-6) over one group, without the division for Dr. GRPO.

    std is the sample's (n - 1). A group without spread, or of one, has advantage 0 throughout.
    """
    rewards = np.asarray(rewards_micro, np.float64) / MICRO
    centred = rewards - rewards.mean()
    if not has_spread(rewards_micro):
        return np.zeros_like(centred)
    scaled: NDArray[np.float64] = centred / (rewards.std(ddof=1) + 1e-6)
    return centred if dr_grpo else scaled


def has_spread(rewards_micro: Sequence[int]) -> bool:
    """Only groups whose rewards differ teach anything."""
    return min(rewards_micro) != max(rewards_micro)


def ratios(now: Tensor, batch: Tensor) -> Tensor:
    """Policy ratio of each token [N] from log-probabilities [N]."""
    return (now - batch).clamp(-LOG_RATIO_MAX, LOG_RATIO_MAX).exp()


def policy_losses(ratio: Tensor, advantages: Tensor, training: Training) -> Tensor:
    """Clipped loss of each token [N] from its ratio [N] and advantage [N]."""
    bounded = ratio.clamp(max=training.delta) * advantages
    clipped = ratio.clamp(1 - training.eps_low, 1 + training.eps_high) * advantages
    return -torch.minimum(bounded, clipped)


def divergences(now: Tensor, other: Tensor) -> Tensor:
    """k3 estimate of KL(now ‖ other) of each token [N], never negative, at most KL_MAX."""
    log_ratio = (other - now).clamp(-LOG_RATIO_MAX, LOG_RATIO_MAX)
    return (log_ratio.exp() - 1 - log_ratio).clamp(max=KL_MAX)


def clip_counts(ratio: Tensor, training: Training) -> Tensor:
    """Number of tokens whose ratio lies outside the clip range."""
    return ((ratio < 1 - training.eps_low) | (ratio > 1 + training.eps_high)).sum()


def entropies(log_probabilities: Tensor) -> Tensor:
    """Entropy in nats of each row of log-probabilities [N, V]."""
    return -(log_probabilities.exp() * log_probabilities).sum(-1)
