"""Runs this node knows, and those it takes part in."""

from __future__ import annotations

from msgspec import Struct

from primed.node.store.database import Database, Row
from primed.verify.runspec import SignedRun

_COLUMNS = "run, spec, signature, joined_unix_ms, roles"


class RunRow(Struct, frozen=True):
    run: bytes
    signed: SignedRun
    joined_unix_ms: int | None  # None: known, not joined
    roles: tuple[str, ...]  # as the user asked; "auto" is kept as such


class Runs:
    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, run: bytes, signed: SignedRun, now_unix_ms: int) -> bool:
        """Remember a verified RunSpec. Whether it was new."""
        sql = "INSERT OR IGNORE INTO runs (run, spec, signature, seen_unix_ms) VALUES (?,?,?,?)"
        return self._database.write(sql, run, signed.spec, signed.signature, now_unix_ms) == 1

    def join(self, run: bytes, roles: tuple[str, ...], now_unix_ms: int) -> bool:
        """Mark a known run as joined, with these roles; the first join's time stays.
        Whether the run is known."""
        sql = "UPDATE runs SET joined_unix_ms=coalesce(joined_unix_ms, ?), roles=? WHERE run=?"
        return self._database.write(sql, now_unix_ms, ",".join(roles), run) == 1

    def get(self, run: bytes) -> RunRow | None:
        row = self._database.row(f"SELECT {_COLUMNS} FROM runs WHERE run=?", run)
        return _run_row(row) if row else None

    def all(self) -> list[RunRow]:
        """In the order in which they were seen."""
        sql = f"SELECT {_COLUMNS} FROM runs ORDER BY seen_unix_ms, run"
        return [_run_row(row) for row in self._database.rows(sql)]


def _run_row(row: Row) -> RunRow:
    run, spec, signature, joined_unix_ms, roles = row
    return RunRow(
        run, SignedRun(spec, signature), joined_unix_ms, tuple(filter(None, roles.split(",")))
    )
