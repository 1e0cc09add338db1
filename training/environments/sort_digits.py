"""The demo's task: put four digits in order. `3107>` must be answered by `0137` and the end.

Small enough that 224k parameters learn it on one CPU core in a minute. It shows a swarm learning,
not a model reasoning: the warm start has seen right answers already (primed.training.warmstart).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from primed.training.tokenizers import load
from primed.verify.runspec import MICRO

DIGITS = 4


class SortDigits:
    """All 10,000 prompts of four digits; reward 1 for exactly the sorted digits and EOS, else 0."""

    name = "sort-digits"
    version = "1"
    parameters: ClassVar = {"digits": DIGITS}
    size = 10**DIGITS

    def __init__(self) -> None:
        self._tokenizer = load("characters-26")
        self.eos = self._tokenizer.eos

    def prompt(self, index: int) -> list[int]:
        return [self._tokenizer.bos, *self._tokenizer.encode(self.question(index))]

    def question(self, index: int) -> str:
        """Raises ValueError for an index outside the task."""
        if not 0 <= index < self.size:
            raise ValueError(f"prompt {index} of {self.size}")
        return f"{index:0{DIGITS}d}>"

    def answer(self, index: int) -> str:
        return "".join(sorted(self.question(index)[:-1]))

    def reward(self, index: int, completion: Sequence[int], finished: bool) -> int:
        if not finished or not completion or completion[-1] != self.eos:
            return 0
        return MICRO if self._tokenizer.decode(completion[:-1]) == self.answer(index) else 0

    def describe(self, index: int, completion: Sequence[int]) -> str:
        ids = [token for token in completion if token != self.eos]
        return self.question(index) + self._tokenizer.decode(ids)
