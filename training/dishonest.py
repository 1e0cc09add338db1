"""A cheat for demonstrations and tests: an engine that answers with another model's tokens.

It decodes with its version's weights disturbed by noise, as somebody would who runs a different or
cheaper model, and proves that model's states. Prompts, lengths, rewards and the form of the proofs
are right, so checks 1 to 5 pass; the replay of the sampling and the proofs do not. Only a run that
its originator signed as a toy can enable it (Configure.dishonest and RunSpec.toy).
"""

from __future__ import annotations

from pathlib import Path

import torch

from primed.training.errors import BadConfig
from primed.training.torch_engine import TorchEngine
from primed.verify.runspec import RunSpec

NOISE = 0.5  # of each tensor's standard deviation (of its mean magnitude for a vector)
_SEED = 20_240_916


class DishonestEngine(TorchEngine):
    """TorchEngine over other weights than those it was told to load."""

    def __init__(self, spec: RunSpec, eos: int) -> None:
        if not spec.toy:
            raise BadConfig("a dishonest engine can only be started in a toy run")
        super().__init__(spec.model, spec.proof, eos)

    def load(self, weights_path: Path) -> None:
        super().load(weights_path)
        generator = torch.Generator().manual_seed(_SEED)
        for parameter in self.model.parameters():
            if parameter.dim() > 1:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise * (NOISE * parameter.std()))
