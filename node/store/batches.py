"""This worker's own batches, by run and counter: what `primed rewards` tells of them.

The events are the truth about what was committed, and so about which counter is next; this is the
worker's notebook, which outlives the daemon and the ledger's memory of closed batches.
"""

from __future__ import annotations

from msgspec import Struct

from primed.node.store.database import Database

_COLUMNS = "counter, state, version, detail"


class BatchRow(Struct, frozen=True):
    counter: int
    state: str  # a word of views.BatchState
    version: bytes
    detail: bytes = b""  # the caller's own encoding


class Batches:
    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, run: bytes, row: BatchRow) -> None:
        """Write the whole row, whatever was there."""
        sql = f"INSERT OR REPLACE INTO batches (run, {_COLUMNS}) VALUES (?,?,?,?,?)"
        self._database.write(sql, run, row.counter, row.state, row.version, row.detail)

    def get(self, run: bytes, counter: int) -> BatchRow | None:
        sql = f"SELECT {_COLUMNS} FROM batches WHERE run=? AND counter=?"
        row = self._database.row(sql, run, counter)
        return BatchRow(*row) if row else None

    def newest(self, run: bytes, limit: int) -> list[BatchRow]:
        """Highest counter first."""
        sql = f"SELECT {_COLUMNS} FROM batches WHERE run=? ORDER BY counter DESC LIMIT ?"
        return [BatchRow(*row) for row in self._database.rows(sql, run, limit)]
