"""Cuts and the ledger states they lead to, so that a restart folds from the newest cut on."""

from __future__ import annotations

from msgspec import Struct

from primed.node.store.database import Database


class CutRow(Struct, frozen=True):
    number: int
    root: bytes  # state root
    event: bytes  # digest of the cut's event; the run id for cut 0
    state: bytes  # encoded ledger state (verify.ledger)


class Cuts:
    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, run: bytes, row: CutRow) -> bool:
        """Remember a cut; False if that number is known already (the first stays)."""
        sql = "INSERT OR IGNORE INTO cuts (run, number, root, event, state) VALUES (?,?,?,?,?)"
        return self._database.write(sql, run, row.number, row.root, row.event, row.state) == 1

    def get(self, run: bytes, number: int) -> CutRow | None:
        sql = "SELECT number, root, event, state FROM cuts WHERE run=? AND number=?"
        row = self._database.row(sql, run, number)
        return CutRow(*row) if row else None

    def newest(self, run: bytes) -> CutRow | None:
        sql = "SELECT number, root, event, state FROM cuts WHERE run=? ORDER BY number DESC LIMIT 1"
        row = self._database.row(sql, run)
        return CutRow(*row) if row else None

    def forget_states_before(self, run: bytes, number: int) -> None:
        """Drop old states; numbers, roots and events stay."""
        sql = "UPDATE cuts SET state=x'' WHERE run=? AND number<?"
        self._database.write(sql, run, number)
