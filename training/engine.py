"""What every rollout engine does, whatever computes it: the embedded torch engine, later vLLM.

An engine serves one policy version at a time, loaded from a verified bf16 file. `generate` samples
so that others can replay it (primed.verify.sampling) and proves what it computed; `prefill` is the
verifier's side of the same model. Arrays are numpy: nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Completion:
    """What an engine answers to one prompt. n >= 1 tokens."""

    ids: NDArray[np.uint32]  # [n], the last one is EOS if finished
    logprobs: NDArray[np.float32]  # [n], processed: of logits / T
    proofs: tuple[bytes, ...]  # one per chunk of rows
    finished: bool


@dataclass(frozen=True)
class Prefill:
    """What a model computes at the places that sampled a given completion."""

    logits: NDArray[np.float32]  # [n, V]
    rows: NDArray[np.uint16]  # bf16 [n, H], post final norm: what enters the LM head


class Engine(Protocol):
    """One model, one loaded version. Not thread-safe."""

    profile: str  # compute dtype/engine/device

    def load(self, weights_path: Path) -> None:
        """Serve this version from now on. Raises BadWeights; then the old version stays."""
        ...

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        max_new_tokens: int,
        temperature: float,
    ) -> list[Completion]:
        """One completion a prompt and u64 seed, in order."""
        ...

    def prefill(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> Iterator[tuple[int, Prefill]]:
        """(index, what the model computes) of each prompt and completion, in any order."""
        ...


def processed_logprobs(
    logits: NDArray[np.float32], ids: NDArray[np.uint32], temperature: float
) -> NDArray[np.float32]:
    """Log-probabilities f32 [n] of ids [n] under softmax(logits [n, V] / T); T = 0 counts as 1."""
    scaled = logits / np.float32(temperature or 1.0)
    scaled -= scaled.max(axis=1, keepdims=True)
    chosen: NDArray[np.float32] = scaled[np.arange(len(ids)), ids]
    total: NDArray[np.float32] = np.exp(scaled).sum(axis=1)
    logprobs: NDArray[np.float32] = chosen - np.log(total)
    return logprobs
