"""What a verdict rests on, kept for those who ask: encoded evidence by its digest."""

from __future__ import annotations

from primed.node.store.database import Database


class EvidenceStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, run: bytes, digest: bytes, commitment: bytes, body: bytes) -> bool:
        """Whether it was new."""
        sql = "INSERT OR IGNORE INTO evidence (run, digest, commitment, body) VALUES (?,?,?,?)"
        return self._database.write(sql, run, digest, commitment, body) == 1

    def get(self, run: bytes, digest: bytes) -> bytes | None:
        row = self._database.row("SELECT body FROM evidence WHERE run=? AND digest=?", run, digest)
        return row[0] if row else None

    def about(self, run: bytes, commitment: bytes) -> list[tuple[bytes, bytes]]:
        """(digest, body) of all evidence on a commitment."""
        sql = "SELECT digest, body FROM evidence WHERE run=? AND commitment=? ORDER BY digest"
        return [(digest, body) for digest, body in self._database.rows(sql, run, commitment)]
