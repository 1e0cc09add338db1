"""What outlives the process: the peer book and the scores, in a small SQLite file (mode 0600).

`save` writes only what differs from the last save, in one transaction. Blocking: called in a
thread. A file that is damaged or of another version is put aside and begun anew, since everything
in it can be learnt again; only bans are lost with it. A full disk or a lock does not cost the file:
loading one that exists writes nothing.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from primed.p2p.peerbook import AddressRow, PeerRow
from primed.p2p.penalties import ScoreRow

_log = logging.getLogger(__name__)
_VERSION = 1
_PASSING = (  # errors that say nothing about the file
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
)
_TABLES = {  # name: (columns, how many of them are the key)
    "peers": ("peer BLOB, last_ok_unix_s REAL, record BLOB", 1),
    "addresses": (
        "peer BLOB, address TEXT, source TEXT, seen_unix_s REAL, worked_unix_s REAL",
        2,
    ),
    "scores": ("peer BLOB, score REAL, at_unix_s REAL, banned_until_unix_s REAL", 1),
}


@dataclass
class Rows:
    peers: set[PeerRow] = field(default_factory=set)
    addresses: set[AddressRow] = field(default_factory=set)
    scores: set[ScoreRow] = field(default_factory=set)


class BookFile:
    """One process at a time; the data directory's lock sees to that."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database: sqlite3.Connection | None = None
        self._saved = Rows()

    def load(self) -> Rows:
        """Open the file, creating it if need be, and read it. Raises OSError or sqlite3.Error."""
        try:
            self._saved = self._open()
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
            if code & 0xFF in _PASSING:  # its upper bytes tell more of the same
                self.close()
                raise
            _log.warning("the peer book %s is not readable and begun anew: %s", self._path, error)
            self.close()
            os.replace(self._path, self._path.with_name(self._path.name + ".damaged"))
            self._saved = self._open()
        return self._saved

    def _open(self) -> Rows:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._path, flags, 0o600)
        try:
            os.fchmod(descriptor, 0o600)  # SQLite gives its journal the same mode
        finally:
            os.close(descriptor)
        self._database = database = sqlite3.connect(
            self._path, check_same_thread=False, isolation_level=None, timeout=5.0
        )
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _VERSION):
            raise sqlite3.DatabaseError(f"version {version}")
        database.execute("PRAGMA synchronous=NORMAL")
        if version == 0:
            _create_tables(database)
        return Rows(
            {PeerRow(*row) for row in database.execute("SELECT * FROM peers")},
            {AddressRow(*row) for row in database.execute("SELECT * FROM addresses")},
            {ScoreRow(*row) for row in database.execute("SELECT * FROM scores")},
        )

    def save(self, rows: Rows) -> None:
        """Make the file hold these rows. Raises sqlite3.Error; then the old ones are kept."""
        database = self._database
        assert database is not None, "load() comes first"
        database.execute("BEGIN IMMEDIATE")
        try:
            for name, (columns, keys) in _TABLES.items():
                old, new = getattr(self._saved, name), getattr(rows, name)
                _replace(database, name, columns, keys, old - new, new - old)
            database.execute("COMMIT")
        except BaseException:
            database.execute("ROLLBACK")
            raise
        self._saved = rows

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


def _create_tables(database: sqlite3.Connection) -> None:
    for name, (columns, keys) in _TABLES.items():
        key = ", ".join(column.split()[0] for column in columns.split(", ")[:keys])
        database.execute(
            f"CREATE TABLE IF NOT EXISTS {name} ({columns}, PRIMARY KEY ({key})) STRICT"
        )
    database.execute(f"PRAGMA user_version={_VERSION}")


def _replace(
    database: sqlite3.Connection,
    table: str,
    columns: str,
    keys: int,
    gone: Iterable[tuple[object, ...]],
    fresh: Iterable[tuple[object, ...]],
) -> None:
    names = [column.split()[0] for column in columns.split(", ")]
    where = " AND ".join(f"{name}=?" for name in names[:keys])
    database.executemany(f"DELETE FROM {table} WHERE {where}", [row[:keys] for row in gone])
    marks = ", ".join("?" * len(names))
    database.executemany(f"INSERT INTO {table} VALUES ({marks})", list(fresh))
