"""Facts about commitments that have not arrived yet: of each author the newest, found by commitment.

Events come author by author when a node replays its store or catches up, and a verifier's chain may
come before the workers'. What it says of batches that are still open stands at its end, so the
oldest facts go first, and nobody's push out another's.
"""

from __future__ import annotations

from collections import deque
from itertools import count
from typing import Generic, TypeVar

Fact = TypeVar("Fact")


class Early(Generic[Fact]):
    def __init__(self) -> None:
        self._facts: dict[bytes, dict[int, tuple[bytes, Fact, float]]] = {}  # by commitment
        self._lines: dict[bytes, deque[tuple[int, bytes]]] = {}  # oldest first, taken ones too
        self._numbers = count()

    def add(
        self, author: bytes, commitment: bytes, fact: Fact, now: float, line: bytes, room: int
    ) -> None:
        """line: whose facts share so much room."""
        number = next(self._numbers)
        self._facts.setdefault(commitment, {})[number] = (author, fact, now)
        waiting = self._lines.setdefault(line, deque())
        waiting.append((number, commitment))
        if len(waiting) > room:
            self._drop(*waiting.popleft())

    def take(self, commitment: bytes) -> list[tuple[bytes, Fact, float]]:
        """(author, fact, when it came) of a commitment that has arrived, in order."""
        return list(self._facts.pop(commitment, {}).values())

    def _drop(self, number: int, commitment: bytes) -> None:
        facts = self._facts.get(commitment, {})
        facts.pop(number, None)
        if not facts:
            self._facts.pop(commitment, None)
