"""Signed events and proofs of equivocation: `protocols.events.EventStore` over SQLite.

A node's own event is in here, synced, before anyone else sees it; that is why no sequence number is
ever signed twice. Heads are a table of their own, kept in the same commit.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from primed.node.store.database import Database
from primed.p2p.errors import LocalError
from primed.protocols.events.messages import Equivocation, SignedEvent, Stored
from primed.verify.statements import Head

_PROOF: msgspec.msgpack.Decoder[Equivocation] = msgspec.msgpack.Decoder(Equivocation)


class SqliteEvents:
    def __init__(self, database: Database) -> None:
        self._database = database

    def head(self, run: bytes, author: bytes) -> Head | None:
        """The author's newest event."""
        sql = "SELECT author, seq, digest FROM heads WHERE run=? AND author=?"
        row = self._database.row(sql, run, author)
        return Head(*row) if row else None

    def heads(self, run: bytes) -> list[Head]:
        """Of every author, in author order."""
        sql = "SELECT author, seq, digest FROM heads WHERE run=? ORDER BY author"
        return [Head(*row) for row in self._database.rows(sql, run)]

    def append(self, run: bytes, events: Sequence[Stored]) -> None:
        """All or none, synced on return. An event that is there already is passed over; raises
        LocalError for one that does not follow its author's head."""
        with self._database.transaction():
            for stored in events:
                self._append(run, stored)

    def _append(self, run: bytes, stored: Stored) -> None:
        event = stored.event
        sql = "SELECT digest FROM events WHERE run=? AND author=? AND seq=?"
        if (row := self._database.row(sql, run, event.author, event.seq)) is not None:
            if row[0] != stored.digest:
                raise LocalError(f"another event has sequence number {event.seq} already")
            return
        head = self.head(run, event.author)
        seq, prev = (head.seq + 1, head.digest) if head else (0, run)
        if (event.run, event.seq, event.prev) != (run, seq, prev):
            raise LocalError(f"event {event.seq} does not follow the author's head")
        kind = type(event.body).__struct_config__.tag
        signed = stored.signed
        self._database.write(
            "INSERT INTO events (run, author, seq, digest, kind, event, signature) "
            "VALUES (?,?,?,?,?,?,?)",
            *(run, event.author, event.seq, stored.digest, str(kind)),
            *(signed.event, signed.signature),
        )
        sql = "INSERT OR REPLACE INTO heads (run, author, seq, digest) VALUES (?,?,?,?)"
        self._database.write(sql, run, event.author, event.seq, stored.digest)

    def get(self, run: bytes, author: bytes, start: int, count: int) -> list[SignedEvent]:
        """Events start, start + 1, ... of the author, at most count."""
        sql = (
            "SELECT event, signature FROM events "
            "WHERE run=? AND author=? AND seq>=? ORDER BY seq LIMIT ?"
        )
        return [SignedEvent(*row) for row in self._database.rows(sql, run, author, start, count)]

    def count(self, run: bytes) -> int:
        row = self._database.row("SELECT total(seq + 1) FROM heads WHERE run=?", run)
        return int(row[0]) if row else 0

    def add_proof(self, run: bytes, author: bytes, proof: Equivocation) -> None:
        """The newest proof is kept: a later one may name an earlier place."""
        sql = "INSERT OR REPLACE INTO equivocations (run, author, proof) VALUES (?,?,?)"
        self._database.write(sql, run, author, msgspec.msgpack.encode(proof))

    def proofs(self, run: bytes) -> list[Equivocation]:
        sql = "SELECT proof FROM equivocations WHERE run=? ORDER BY author"
        return [_PROOF.decode(row[0]) for row in self._database.rows(sql, run)]
