"""Tokenizers that need no download: a run names one, and every participant has the same.

`characters-26` is the demo's: 23 characters after padding, begin and end. Tokenizers of real
models come by digest with the model; their loader belongs here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from primed.training.errors import BadConfig


class Tokenizer(Protocol):
    """Text to token ids and back. pad, bos and eos are ids below `vocabulary`."""

    name: str
    vocabulary: int
    pad: int
    bos: int
    eos: int

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


class Characters:
    """One token a character of a fixed alphabet; ids 0, 1, 2 are padding, begin, end."""

    pad, bos, eos = 0, 1, 2

    def __init__(self, name: str, alphabet: str) -> None:
        self.name = name
        self.vocabulary = len(alphabet) + 3
        self._alphabet = alphabet
        self._ids = {character: i + 3 for i, character in enumerate(alphabet)}

    def encode(self, text: str) -> list[int]:
        """Raises KeyError for a character outside the alphabet."""
        return [self._ids[character] for character in text]

    def decode(self, ids: Sequence[int]) -> str:
        """Special and unknown ids are shown as `?`."""
        return "".join(self._alphabet[i - 3] if 3 <= i < self.vocabulary else "?" for i in ids)


_INSTALLED: dict[str, Tokenizer] = {
    "characters-26": Characters("characters-26", "0123456789abcdefghij+=>"),
}


def load(name: str) -> Tokenizer:
    """Raises BadConfig for a tokenizer that is not installed."""
    if name not in _INSTALLED:
        raise BadConfig(f"tokenizer {name!r} is not installed; there are {sorted(_INSTALLED)}")
    return _INSTALLED[name]
