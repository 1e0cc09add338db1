"""A learner of SmolLM2 for `benchmarks.update`: optimiser steps, and the mix with a neighbour.

A step does what training.learner does (two-sided GRPO loss, here without the KL term; clipped
gradient, AdamW on fp32 masters, bf16 by rounding to nearest even). A mix does what algorithms.md
section 8 says for one neighbour. A learner's state lies in files, so that several fit in memory.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from benchmarks import smollm
from benchmarks.update_rollouts import Lessons
from primed.native import quantised, rounding
from primed.training import grpo, learner, models, packing, weights
from primed.training.packing import Sample
from primed.verify.runspec import Training

F32 = NDArray[np.float32]

TRAINING = Training()
MU, ETA, GAMMA = np.float32(0.8), np.float32(0.7), np.float32(0.5)
NEIGHBOUR_WEIGHT = np.float32(0.5)  # Metropolis, both with one neighbour: 1 / (1 + 1)
TERNARY_BITS = 2
PIECE = 4 * 1024 * 1024  # numbers mixed at a time; whole blocks
GGUF_BLOCK = 32  # weights quantised together

_SHAPES = models.shapes_of(models.build(smollm.SPEC))
SIZE = sum(map(math.prod, _SHAPES.values()))


def named(row: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """The tensors of a row of all parameters in order of name, where they lie."""
    found, at = {}, 0
    for name, shape in _SHAPES.items():
        end = at + math.prod(shape)
        found[name], at = row[at:end].reshape(shape), end
    return found


class Learner:
    """Rows of fp32 in files: master, first and second moment; of the round its start, the outer
    momentum and what the neighbour knows of this learner (x̂)."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._live: dict[str, F32] = {}  # masters, while they are in the model
        self.steps_done = 0

    def row(self, name: str, part: slice = slice(0, SIZE)) -> F32:
        """Of a file; what is assigned to it is written."""
        shape = (min(part.stop, SIZE) - part.start,)
        return np.memmap(self._folder / name, np.float32, "r+", 4 * part.start, shape)

    def _fill(self, name: str, tensors: Iterable[F32]) -> None:
        with (self._folder / name).open("wb") as file:
            for tensor in tensors:
                tensor.tofile(file)

    def begin(self, master: F32, other: Learner | None = None) -> None:
        """From these masters, with the moments of another learner or none."""
        for name in ("master", "start", "known"):
            self._fill(name, [master])
        zeros = np.zeros(SIZE, np.float32)
        self._fill("outer", [zeros])
        for name in ("first", "second"):
            if other is None:
                self._fill(name, [zeros])
            else:
                shutil.copyfile(other._folder / name, self._folder / name)
        self.steps_done = other.steps_done if other else 0

    def write(self, path: Path) -> Path:
        """The policy as it is now."""
        masters = self._live or named(self.row("master"))
        weights.write(path, {name: rounding.bf16_of(row) for name, row in masters.items()})
        return path

    def step(self, lessons: Lessons, count: int, lr: float) -> Iterator[None]:
        """Yields before each of `count` steps and after the last: `write` then writes that."""
        model = models.build(smollm.SPEC)
        models.fill(model, named(self.row("master")))
        parameters = dict(sorted(model.named_parameters()))
        betas = (TRAINING.beta1, TRAINING.beta2)
        optimiser = torch.optim.AdamW(
            parameters.values(), lr, betas=betas, eps=learner.EPSILON, weight_decay=0.0
        )
        rows = {"exp_avg": "first", "exp_avg_sq": "second"}
        moments = {key: named(self.row(row)) for key, row in rows.items()}
        for name, parameter in parameters.items():
            state = {key: torch.from_numpy(moments[key][name].copy()) for key in rows}
            optimiser.state[parameter] = {"step": torch.tensor(float(self.steps_done)), **state}
        del moments
        self._live = {name: parameter.detach().numpy() for name, parameter in parameters.items()}
        yield
        for _ in range(count):
            _learn(model, next(lessons))
            optimiser.step()
            self.steps_done += 1
            yield
        self._fill("master", self._live.values())
        for key, row in rows.items():
            self._fill(row, (optimiser.state[p][key].numpy() for p in parameters.values()))
        self._live = {}


def _learn(model: LlamaForCausalLM, samples: list[Sample]) -> None:
    """The clipped gradient of the mean loss."""
    packed = packing.pack([samples])
    now = learner.log_probabilities(model, packed, temperature=1.0)
    now = now.gather(1, packed.targets[:, None])[:, 0]
    ratio = grpo.ratios(now, packed.logprobs)
    loss = grpo.policy_losses(ratio, packed.advantages, TRAINING).mean()
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), TRAINING.grad_clip)


def mix(pair: tuple[Learner, Learner]) -> None:
    """The outer step of both, each with what it knows of the other."""
    for at in range(0, SIZE, PIECE):
        part = slice(at, at + PIECE)
        halves, known = zip(*(_half(one, part) for one in pair), strict=True)
        for one, half, other in zip(pair, halves, reversed(known), strict=True):
            moved = half + GAMMA * NEIGHBOUR_WEIGHT * (other - half)
            one.row("start", part)[:] = one.row("master", part)[:] = moved


def _half(one: Learner, part: slice) -> tuple[F32, F32]:
    """Nesterov on the learner's own way of this round, and what the neighbour then knows of it."""
    start, outer, known = (one.row(name, part) for name in ("start", "outer", "known"))
    way = start - one.row("master", part)
    outer[:] = MU * outer + way
    half: F32 = np.asarray(start - ETA * (MU * outer + way), np.float32)
    told: F32 = np.array(known, np.float32)
    difference = quantised.quantise(TERNARY_BITS, half - told)
    quantised.accumulate(TERNARY_BITS, difference, told)
    known[:] = told
    return half, told


def exact(policy: weights.Tensors) -> F32:
    """The masters of a learner that begins with these weights."""
    row = np.empty(SIZE, np.float32)
    for name, tensor in named(row).items():
        tensor[:] = models.as_float(policy[name]).numpy()
    return row


def settled(policy: weights.Tensors, seed: int) -> F32:
    """Masters near these weights, as after many steps: anywhere within a bf16 number's interval.
    Weights that only the GGUF's grid made zero are spread over its step there, since every step
    changes a zero, and the model that was quantised had hardly any."""
    draw = np.random.default_rng(seed)
    row = exact(policy)
    for tensor in named(row).values():
        unit = np.exp2(np.floor(np.log2(np.abs(tensor) + np.float32(1e-30))) - 7)
        unit = np.where(tensor == 0, _grid_of(tensor), unit)
        tensor += unit * (draw.random(tensor.shape, np.float32) - np.float32(0.5))
    return row


def _grid_of(tensor: F32) -> F32:
    """The smallest number but 0 in each weight's block."""
    if tensor.size % GGUF_BLOCK:
        return np.zeros_like(tensor)
    blocks = np.abs(tensor).reshape(-1, GGUF_BLOCK)
    least = np.where(blocks > 0, blocks, np.inf).min(axis=1, keepdims=True)
    least = np.where(np.isfinite(least), least, 0).astype(np.float32)
    return np.broadcast_to(least, blocks.shape).reshape(tensor.shape)
