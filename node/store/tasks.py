"""Claim, then act: work that must be done exactly once although the process may die at any point.

A task is claimed before it is begun and done together with its result. After a crash `unfinished`
lists what was claimed and not done; the caller redoes it, which its own idempotence allows (an
event that is already in the store is not appended twice).
"""

from __future__ import annotations

from msgspec import Struct

from primed.node.store.database import Database


class TaskRow(Struct, frozen=True):
    name: bytes  # a commitment, a counter: whatever identifies the work
    is_done: bool
    detail: bytes  # what is needed to redo it
    result: bytes


class Tasks:
    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, run: bytes, kind: str, name: bytes, detail: bytes = b"") -> bool:
        """Whether the caller is the first to claim it."""
        sql = (
            "INSERT OR IGNORE INTO tasks (run, kind, name, is_done, detail) VALUES (?, ?, ?, 0, ?)"
        )
        return self._database.write(sql, run, kind, name, detail) == 1

    def finish(self, run: bytes, kind: str, name: bytes, result: bytes = b"") -> bool:
        """Whether the caller is the one that finished it; a second result is dropped."""
        sql = "UPDATE tasks SET is_done=1, result=? WHERE run=? AND kind=? AND name=? AND is_done=0"
        return self._database.write(sql, result, run, kind, name) == 1

    def get(self, run: bytes, kind: str, name: bytes) -> TaskRow | None:
        sql = "SELECT name, is_done, detail, result FROM tasks WHERE run=? AND kind=? AND name=?"
        row = self._database.row(sql, run, kind, name)
        return TaskRow(row[0], bool(row[1]), row[2], row[3]) if row else None

    def unfinished(self, run: bytes, kind: str) -> list[TaskRow]:
        sql = (
            "SELECT name, is_done, detail, result FROM tasks "
            "WHERE run=? AND kind=? AND is_done=0 ORDER BY name"
        )
        rows = self._database.rows(sql, run, kind)
        return [TaskRow(name, bool(done), detail, result) for name, done, detail, result in rows]
