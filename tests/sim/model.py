"""The policy of simulated runs: logits and states are drawn from the weights, without a network.

Weights are a real safetensors file with a real digest, and steps are real deltas, so that weights
travel, are checked and refused as ever. What a position computes is a function of (weights digest,
prompt, position): cheap, the same on every node, and another for every other version.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from primed import native
from primed.training import weights
from primed.training.engine import Completion, Prefill, processed_logprobs
from primed.verify import sampling
from primed.verify.digests import digest
from primed.verify.runspec import RunSpec
from primed.verify.toploc import chunks_of

VOCABULARY, HIDDEN, EOS = 26, 16, 2
CONFIG: dict[str, int | float | bool] = {"vocab_size": VOCABULARY, "hidden_size": HIDDEN}
WEIGHTS = 120_000  # bf16: 240 kB, four leaves
CHANGED, CHANGED_SEVENTH = 1_000, 60_000  # weights a step changes; many in each seventh
LENGTHS = (6, 16)  # positions at which EOS begins to be likely, and is nearly sure


def write_base(path: Path, seed: int) -> bytes:
    """The base checkpoint of a run; its weights digest."""
    values = np.random.default_rng(seed).integers(0x3C00, 0x4000, WEIGHTS, np.uint16)
    weights.write(path, {"w": values})
    return weights.digest_of({"w": values})


def write_step(parent: Path, out: Path, step: int, taken: Sequence[bytes]) -> bytes:
    """The weights after a step on these batches: a pure function of all arguments."""
    before, _ = weights.read(parent)
    rng = _rng(digest("sim-step", weights.digest_of(before), *taken))
    places = rng.integers(0, WEIGHTS, CHANGED_SEVENTH if step % 7 == 0 else CHANGED)
    values = before["w"].copy()
    values[places] ^= 1
    weights.write(out, {"w": values})
    return weights.digest_of({"w": values})


def _rng(key: bytes) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "big")))


@lru_cache(maxsize=1024)
def _computed(
    version: bytes, prompt: tuple[int, ...], positions: int
) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    """(logits [positions, V], bf16 states [positions, H]) that follow a prompt."""
    rng = _rng(digest("sim-model", version, bytes(prompt)))
    logits = 2 * rng.standard_normal((positions, VOCABULARY), np.float32)
    soon, sure = LENGTHS
    logits[:, EOS] = np.clip(np.arange(positions) - soon, -9, sure - soon)
    states = rng.standard_normal((positions, HIDDEN), np.float32)
    return logits, (states.view(np.uint32) >> 16).astype(np.uint16)


class SimEngine:
    """`primed.training.engine.Engine`. `bias`: answers with another model's tokens if not 0."""

    profile = "bf16/sim/cpu"

    def __init__(self, spec: RunSpec, bias: int = 0) -> None:
        self._spec = spec
        self._bias = bias
        self._version = b""

    def load(self, weights_path: Path) -> None:
        self._version = weights.digest_of_file(weights_path)
        if self._bias:
            self._version = digest("sim-cheat", self._version, bytes([self._bias]))

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        max_new_tokens: int,
        temperature: float,
    ) -> list[Completion]:
        return [
            self._answer(tuple(prompt), seed, max_new_tokens, temperature)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]

    def _answer(
        self, prompt: tuple[int, ...], seed: int, most: int, temperature: float
    ) -> Completion:
        logits, states = _computed(self._version, prompt, most)
        positions = np.arange(len(prompt), len(prompt) + most).astype(np.uint32)
        ids = sampling.choose(logits, np.full(most, seed, np.uint64), positions, temperature)
        ends = np.flatnonzero(ids == EOS)
        count = int(ends[0]) + 1 if len(ends) else most
        logprobs = processed_logprobs(logits[:count], ids[:count], temperature)
        spec, at, chunks = self._spec.proof, 0, []
        for rows in chunks_of(count, spec.chunk_tokens):
            chunks.append(np.ascontiguousarray(states[at : at + rows]))
            at += rows
        proofs = tuple(native.toploc_build(chunks, spec.k))
        return Completion(ids[:count], logprobs, proofs, bool(len(ends)))

    def prefill(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> Iterator[tuple[int, Prefill]]:
        most = self._spec.sampling.max_new_tokens
        for index, (prompt, ids) in enumerate(zip(prompts, completions, strict=True)):
            logits, states = _computed(self._version, tuple(prompt), most)
            count = len(ids)
            yield index, Prefill(logits[:count], np.ascontiguousarray(states[:count]))
