"""Single values that outlive the daemon: by name, as bytes."""

from __future__ import annotations

from primed.node.store.database import Database


class Facts:
    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, name: str, value: bytes) -> None:
        self._database.write("INSERT OR REPLACE INTO facts (name, value) VALUES (?,?)", name, value)

    def get(self, name: str) -> bytes | None:
        row = self._database.row("SELECT value FROM facts WHERE name=?", name)
        return row[0] if row else None
