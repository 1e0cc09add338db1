"""How much is in a store, without its contents: read beside a running daemon, never written."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from primed.node.store.database import query_only


def statistics(path: Path) -> dict[str, int | str]:
    """Schema version, file sizes and rows a table; `error` if the file cannot be read."""
    found: dict[str, int | str] = {}
    for each in (path, path.with_name(f"{path.name}-wal")):
        found[f"{each.name} bytes"] = each.stat().st_size if each.exists() else 0
    try:
        with query_only(path) as connection:
            (found["schema"],) = connection.execute("PRAGMA user_version").fetchone()
            tables = "SELECT name FROM sqlite_master WHERE type='table' ORDER BY name"
            for (name,) in connection.execute(tables).fetchall():
                (found[f"{name} rows"],) = connection.execute(
                    f'SELECT count(*) FROM "{name}"'
                ).fetchone()
    except sqlite3.Error as error:
        found["error"] = str(error)
    return found
