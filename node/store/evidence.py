"""What this node's verdicts rest on, kept for those who ask: encoded evidence by commitment."""

from __future__ import annotations

from primed.node.store.database import Database


class EvidenceStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, run: bytes, digest: bytes, commitment: bytes, body: bytes) -> bool:
        """Keep a piece of evidence, named by its digest. Whether it was new."""
        sql = "INSERT OR IGNORE INTO evidence (run, commitment, digest, body) VALUES (?,?,?,?)"
        return self._database.write(sql, run, commitment, digest, body) == 1

    def about(self, run: bytes, commitment: bytes) -> list[bytes]:
        """All evidence on a commitment."""
        sql = "SELECT body FROM evidence WHERE run=? AND commitment=? ORDER BY digest"
        return [body for (body,) in self._database.rows(sql, run, commitment)]
