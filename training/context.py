"""A run as a child works in it: the RunSpec with everything installed that it names.

Built once from the exact bytes that the daemon verified. Refuses a run whose environments,
tokenizer or model are not the ones that this node has (BadConfig, with what to do).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from primed.training import environments, tokenizers
from primed.training.environments import Environment
from primed.training.errors import BadConfig
from primed.verify.checks import ModelFacts
from primed.verify.runspec import RunSpec


@dataclass(frozen=True)
class RunContext:
    run_id: bytes
    spec: RunSpec
    environments: Sequence[Environment]
    facts: ModelFacts

    @property
    def sizes(self) -> list[int]:
        """Prompts of each environment."""
        return [environment.size for environment in self.environments]

    def score(self, environment: int, prompt: int, ids: NDArray[np.uint32], finished: bool) -> int:
        """verify.checks.Scorer over the installed environments."""
        return self.environments[environment].reward(prompt, ids.tolist(), finished)


def of_bytes(spec_bytes: bytes, run_id: bytes) -> RunContext:
    """The context of an encoded RunSpec. Raises BadConfig."""
    try:
        spec = msgspec.msgpack.decode(spec_bytes, type=RunSpec)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadConfig(f"RunSpec does not decode: {error}") from error
    return of(spec, run_id)


def of(spec: RunSpec, run_id: bytes) -> RunContext:
    """The context of a RunSpec. Raises BadConfig."""
    tokenizer = tokenizers.load(spec.model.tokenizer)
    loaded = environments.load_all(spec.environments)
    for environment in loaded:
        if environment.eos != tokenizer.eos:
            raise BadConfig(
                f"environment {environment.name!r} ends with another token than the run"
            )
    config = spec.model.config
    vocabulary, hidden = config.get("vocab_size", 0), config.get("hidden_size", 0)
    if vocabulary < tokenizer.vocabulary:
        raise BadConfig(f"the model has no place for the {tokenizer.vocabulary} tokens")
    return RunContext(run_id, spec, loaded, ModelFacts(int(vocabulary), int(hidden), tokenizer.eos))
