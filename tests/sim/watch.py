"""What the judge of a simulated run sees: every event and every cut, as nodes write them down.

It listens where a node's store is written, so nothing escapes it that a node could know after a
crash. Nodes never read from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from primed.node.store import Store
from primed.node.store.events import SqliteEvents
from primed.node.store.ledger import CutRow, Cuts
from primed.p2p.simnet import World
from primed.protocols.events.messages import Stored


class Watch:
    """own: author -> what it stored of its own, in order. cuts: peer -> number -> root.
    states: number -> encoded state, from whoever came first."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.own: dict[bytes, list[bytes]] = {}
        self.cuts: dict[bytes, dict[int, bytes]] = {}
        self.states: dict[int, bytes] = {}
        self.contradictions: list[str] = []

    def stored(self, peer: bytes, events: Sequence[Stored]) -> None:
        for each in events:
            if each.event.author == peer:
                self._emitted(peer, each)

    def _emitted(self, peer: bytes, stored: Stored) -> None:
        event, chain = stored.event, self.own.setdefault(peer, [])
        name = self.world.hosts[peer].name
        if event.seq < len(chain):  # adopted again after its store was lost
            if chain[event.seq] != stored.digest:
                self.contradictions.append(f"{name} signed two events with number {event.seq}")
            return
        chain.append(stored.digest)
        self.world.trace.note(name, "states", event.seq, _kind(stored), stored.digest)

    def closed(self, peer: bytes, row: CutRow) -> None:
        self.cuts.setdefault(peer, {})[row.number] = row.root
        self.states.setdefault(row.number, row.state)
        self.world.trace.note(self.world.hosts[peer].name, "cut", row.number, row.root)


def _kind(stored: Stored) -> str:
    return type(stored.event.body).__name__.lower()


class _Events(SqliteEvents):
    def tell(self, peer: bytes, watch: Watch) -> None:
        self._peer, self._watch = peer, watch

    def append(self, run: bytes, events: Sequence[Stored]) -> None:
        super().append(run, events)
        self._watch.stored(self._peer, events)


class _Cuts(Cuts):
    def tell(self, peer: bytes, watch: Watch) -> None:
        self._peer, self._watch = peer, watch

    def put(self, run: bytes, row: CutRow) -> bool:
        is_new = super().put(run, row)
        self._watch.closed(self._peer, row)
        return is_new


class WatchedStore(Store):
    def __init__(self, path: Path, peer: bytes, watch: Watch) -> None:
        super().__init__(path)
        self.events = events = _Events(self._database)
        self.cuts = cuts = _Cuts(self._database)
        events.tell(peer, watch)
        cuts.tell(peer, watch)
