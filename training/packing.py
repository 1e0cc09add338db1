"""Packing: many short samples in few rows of `max_tokens`, without one seeing another.

First-fit decreasing over lengths; positions start at 0 in each sample and attention is causal
within a sample only (block-diagonal), so a packed row gives each sample the log-probabilities it
has alone. Padding is never a target. Used by the learner (algorithms.md section 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """A prompt with its completion, as the learner trains on it."""

    tokens: NDArray[np.int64]  # [prompt + n]
    prompt_tokens: int  # at least 1
    logprobs: NDArray[np.float32]  # [n], of the completion when it was sampled
    advantage: float

    @property
    def completion_tokens(self) -> int:
        return len(self.tokens) - self.prompt_tokens


@dataclass(frozen=True)
class Packed:
    """Rows for one forward pass, R rows of T tokens, and their N completion tokens in a line."""

    ids: Tensor  # i64 [R, T]
    positions: Tensor  # i64 [R, T]
    mask: Tensor  # bool [R, 1, T, T], True where attention is allowed
    states: Tensor  # i64 [N], places in the flattened R·T whose state predicts the targets
    targets: Tensor  # i64 [N]
    logprobs: Tensor  # f32 [N]
    advantages: Tensor  # f32 [N]


def rows_of(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """First-fit decreasing: which samples share a row. Raises ValueError if one fits in none."""
    rows: list[list[int]] = []
    free: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        if length > max_tokens:
            raise ValueError(f"a sample of {length} tokens does not fit in {max_tokens}")
        row = next((r for r, space in enumerate(free) if space >= length), len(rows))
        if row == len(rows):
            rows.append([])
            free.append(max_tokens)
        rows[row].append(index)
        free[row] -= length
    return rows


def pack(rows: Sequence[Sequence[Sample]]) -> Packed:
    """Lay samples out in rows, padded to the longest row."""
    width = max(sum(len(sample.tokens) for sample in row) for row in rows)
    ids = np.zeros((len(rows), width), np.int64)
    positions = np.zeros_like(ids)
    segments = np.zeros_like(ids)  # 0 is padding
    states: list[NDArray[np.int64]] = []
    for r, row in enumerate(rows):
        at = 0
        for number, sample in enumerate(row, start=1):
            end = at + len(sample.tokens)
            ids[r, at:end] = sample.tokens
            positions[r, at:end] = np.arange(len(sample.tokens))
            segments[r, at:end] = number
            # The state before a token predicts it.
            states.append(np.arange(at + sample.prompt_tokens, end) - 1 + r * width)
            at = end
    samples = [sample for row in rows for sample in row]
    advantages = [np.full(s.completion_tokens, s.advantage, np.float32) for s in samples]
    return Packed(
        torch.from_numpy(ids),
        torch.from_numpy(positions),
        _mask_of(torch.from_numpy(segments)),
        torch.from_numpy(np.concatenate(states)),
        torch.from_numpy(np.concatenate([s.tokens[s.prompt_tokens :] for s in samples])),
        torch.from_numpy(np.concatenate([s.logprobs for s in samples])),
        torch.from_numpy(np.concatenate(advantages)),
    )


def _mask_of(segments: Tensor) -> Tensor:
    width = segments.shape[1]
    same = segments[:, :, None] == segments[:, None, :]  # [R, T, T]
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    return (same & causal)[:, None]
