"""The SQLite connection under the store: durable commits, one writer, migrations.

WAL with synchronous=FULL: a commit is on disk when it returns, and a killed process leaves a file
that opens without repair (SQLite documentation, "Write-Ahead Logging"). The schema's version is
PRAGMA user_version; each migration is one transaction.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from primed.node.disk import is_disk_full
from primed.node.store.schema import MIGRATIONS
from primed.p2p.errors import UserError

Value = bytes | str | int | float | None
Row = tuple[Any, ...]


@contextmanager
def query_only(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that cannot write. Raises sqlite3.Error."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)
    try:
        yield connection
    finally:
        connection.close()


class Database:
    """Used by the store's modules only."""

    def __init__(self, path: Path, migrations: Iterable[Iterable[str]] = MIGRATIONS) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            self._migrations = tuple(migrations)
            self._connection = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, cached_statements=256
            )
            try:
                self._prepare(path)
            except BaseException:
                self._connection.close()
                raise
        except (sqlite3.DatabaseError, OSError) as error:
            if is_disk_full(error):
                raise  # nothing is to be moved aside
            raise UserError(
                f"the store {path} cannot be opened: {error}",
                f"move it aside (mv {path} {path}.bad); the node then starts with an empty one "
                "and asks its peers for its own chain",
            ) from error

    def _prepare(self, path: Path) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000"):
            self._connection.execute(f"PRAGMA {pragma}")
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version > len(self._migrations):
            raise UserError(
                f"the store {path} was written by a newer primed (schema {version})",
                "update primed, or use another --data-dir",
            )
        for number, statements in enumerate(self._migrations[version:], start=version + 1):
            with self.transaction():
                for statement in statements:
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version={number}")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One commit for all that is done inside; an exception undoes it. Nested: the outermost."""
        with self._lock:
            if self._depth == 0:
                self._connection.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
                if self._depth == 1:
                    self._connection.execute("COMMIT")
            except BaseException:
                # SQLite itself rolls back on SQLITE_FULL and the like
                if self._depth == 1 and self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            finally:
                self._depth -= 1

    def write(self, sql: str, *values: Value) -> int:
        """Execute one statement durably; how many rows it touched."""
        with self._lock:
            return self._connection.execute(sql, values).rowcount

    def write_many(self, sql: str, rows: Sequence[tuple[Value, ...]]) -> None:
        with self.transaction():
            self._connection.executemany(sql, rows)

    def rows(self, sql: str, *values: Value) -> list[Row]:
        with self._lock:
            return self._connection.execute(sql, values).fetchall()

    def row(self, sql: str, *values: Value) -> Row | None:
        with self._lock:
            found: Row | None = self._connection.execute(sql, values).fetchone()
            return found

    def close(self) -> None:
        with self._lock:
            self._connection.close()
