"""Who said it first: completions of a run by fingerprint, to find batches that copy others."""

from __future__ import annotations

from collections.abc import Sequence

from primed.node.store.database import Database


class Fingerprints:
    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(
        self, run: bytes, fingerprints: Sequence[bytes], commitment: bytes
    ) -> dict[bytes, bytes]:
        """Enter a commitment's fingerprints. Those that another commitment has already, with that
        commitment. Entering the same commitment again changes nothing."""
        with self._database.transaction():
            self._database.write_many(
                "INSERT OR IGNORE INTO fingerprints (run, fingerprint, commitment) VALUES (?,?,?)",
                [(run, fingerprint, commitment) for fingerprint in fingerprints],
            )
            owners = self._owners(run, fingerprints)
        return {key: owner for key, owner in owners.items() if owner != commitment}

    def _owners(self, run: bytes, fingerprints: Sequence[bytes]) -> dict[bytes, bytes]:
        """The commitment that each known fingerprint belongs to."""
        found: dict[bytes, bytes] = {}
        for start in range(0, len(fingerprints), 500):
            part = fingerprints[start : start + 500]
            marks = ",".join("?" * len(part))
            sql = (
                "SELECT fingerprint, commitment FROM fingerprints "
                f"WHERE run=? AND fingerprint IN ({marks})"
            )
            found.update(self._database.rows(sql, run, *part))
        return found
