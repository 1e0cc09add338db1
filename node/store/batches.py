"""This worker's own batches, by run and counter: which file, which state, which commitment.

The events are the truth about what was committed; this is the worker's notebook about what it was
doing, so that a restarted daemon neither loses a pushed batch nor makes one counter twice.
"""

from __future__ import annotations

from msgspec import Struct

from primed.node.store.database import Database, Row

_COLUMNS = "counter, state, version, path, digest, root, detail"


class BatchRow(Struct, frozen=True):
    counter: int
    state: str  # a word of views.BatchState
    version: bytes
    path: str = ""
    digest: bytes = b""  # content digest of the file
    root: bytes = b""
    detail: bytes = b""  # the caller's own encoding: receipts, counts


class Batches:
    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, run: bytes, row: BatchRow) -> bool:
        """Claim a counter before work on it begins. False if it is taken: look at `get` then."""
        sql = f"INSERT OR IGNORE INTO batches (run, {_COLUMNS}) VALUES (?,?,?,?,?,?,?,?)"
        return self._database.write(sql, run, *_values(row)) == 1

    def put(self, run: bytes, row: BatchRow) -> None:
        """Write the whole row, whatever was there."""
        sql = f"INSERT OR REPLACE INTO batches (run, {_COLUMNS}) VALUES (?,?,?,?,?,?,?,?)"
        self._database.write(sql, run, *_values(row))

    def move(self, run: bytes, row: BatchRow, before: str) -> bool:
        """Replace the row if its state is still `before`. Whether it was: exactly one of several
        attempts moves it."""
        with self._database.transaction():
            found = self.get(run, row.counter)
            if found is None or found.state != before:
                return False
            self.put(run, row)
            return True

    def get(self, run: bytes, counter: int) -> BatchRow | None:
        sql = f"SELECT {_COLUMNS} FROM batches WHERE run=? AND counter=?"
        row = self._database.row(sql, run, counter)
        return _batch_row(row) if row else None

    def newest(self, run: bytes, limit: int) -> list[BatchRow]:
        """Newest counter first."""
        sql = f"SELECT {_COLUMNS} FROM batches WHERE run=? ORDER BY counter DESC LIMIT ?"
        return [_batch_row(row) for row in self._database.rows(sql, run, limit)]

    def in_state(self, run: bytes, *states: str) -> list[BatchRow]:
        """Oldest counter first: what a restarted worker has to look at."""
        marks = ",".join("?" * len(states))
        sql = f"SELECT {_COLUMNS} FROM batches WHERE run=? AND state IN ({marks}) ORDER BY counter"
        return [_batch_row(row) for row in self._database.rows(sql, run, *states)]

    def next_counter(self, run: bytes) -> int:
        """One above the highest counter ever claimed; 0 at first."""
        row = self._database.row("SELECT max(counter) FROM batches WHERE run=?", run)
        return 0 if row is None or row[0] is None else int(row[0]) + 1

    def states(self, run: bytes) -> dict[str, int]:
        """How many batches are in each state."""
        sql = "SELECT state, count(*) FROM batches WHERE run=? GROUP BY state"
        return dict(self._database.rows(sql, run))


def _values(row: BatchRow) -> tuple[int, str, bytes, str, bytes, bytes, bytes]:
    return row.counter, row.state, row.version, row.path, row.digest, row.root, row.detail


def _batch_row(row: Row) -> BatchRow:
    return BatchRow(*row)
