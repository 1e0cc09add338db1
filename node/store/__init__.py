"""What a node remembers: one SQLite file (WAL, synced at every commit), one typed module a concern.

Every method blocks and may be called from any thread; the daemon's loop uses
`protocols.disk`. One lock makes all of them one writer. What has returned is on disk: a killed process loses at most the call in
flight. Payloads, weights and batches are files elsewhere; only their names are here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from primed.node.store.batches import Batches
from primed.node.store.database import Database
from primed.node.store.events import SqliteEvents
from primed.node.store.evidence import EvidenceStore
from primed.node.store.fingerprints import Fingerprints
from primed.node.store.journal import Journal
from primed.node.store.ledger import Cuts
from primed.node.store.runs import Runs

__all__ = ["Store"]


class Store:
    """All concerns over one database."""

    def __init__(self, path: Path) -> None:
        """Open, and bring the schema up to date. Raises UserError if the file is not usable."""
        self._database = database = Database(path)
        self.events = SqliteEvents(database)
        self.runs = Runs(database)
        self.batches = Batches(database)
        self.journal = Journal(database)
        self.cuts = Cuts(database)
        self.fingerprints = Fingerprints(database)
        self.evidence = EvidenceStore(database)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Several calls as one commit: all or none. Holds the lock, so keep it short."""
        with self._database.transaction():
            yield

    def close(self) -> None:
        self._database.close()
