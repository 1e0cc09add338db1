"""EventStore: what the event log needs of a database. Blocking; called in disk threads only.

The daemon implements it over SQLite. `append` must be atomic and durable when it returns: events
are published only after that, so that a node never signs one sequence number twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from primed.protocols.events.messages import Equivocation, SignedEvent, Stored
from primed.verify.statements import Head


class EventStore(Protocol):
    def head(self, run: bytes, author: bytes) -> Head | None:
        """The author's newest stored event."""

    def heads(self, run: bytes) -> list[Head]:
        """The newest stored event of every author."""

    def append(self, run: bytes, events: Sequence[Stored]) -> None:
        """Keep verified events, each the successor of its author's head, all or none; synced."""

    def get(self, run: bytes, author: bytes, start: int, count: int) -> list[SignedEvent]:
        """Events start, start + 1, ... of the author, at most count; fewer where the chain ends."""

    def add_proof(self, run: bytes, author: bytes, proof: Equivocation) -> None:
        """Keep a proof instead of any earlier one against the author (the new one voids more)."""

    def proofs(self, run: bytes) -> list[Equivocation]: ...
