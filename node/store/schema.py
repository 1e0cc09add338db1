"""The store's tables. A migration is a tuple of statements; released ones are never edited.

Blobs are digests and peer ids as bytes; `run` is a run id. Times are unix milliseconds.
"""

from __future__ import annotations

_FIRST = (
    # Signed events, exactly as they travel.
    """CREATE TABLE events (
        run BLOB NOT NULL, author BLOB NOT NULL, seq INTEGER NOT NULL, digest BLOB NOT NULL,
        kind TEXT NOT NULL, event BLOB NOT NULL, signature BLOB NOT NULL,
        PRIMARY KEY (run, author, seq)) WITHOUT ROWID""",
    """CREATE TABLE heads (
        run BLOB NOT NULL, author BLOB NOT NULL, seq INTEGER NOT NULL, digest BLOB NOT NULL,
        PRIMARY KEY (run, author)) WITHOUT ROWID""",
    # The first proof against an author: two different events with one sequence number.
    """CREATE TABLE equivocations (
        run BLOB NOT NULL, author BLOB NOT NULL, proof BLOB NOT NULL,
        PRIMARY KEY (run, author)) WITHOUT ROWID""",
    """CREATE TABLE runs (
        run BLOB PRIMARY KEY, spec BLOB NOT NULL, signature BLOB NOT NULL,
        seen_unix_ms INTEGER NOT NULL, joined_unix_ms INTEGER, roles TEXT NOT NULL DEFAULT ''
        ) WITHOUT ROWID""",
    """CREATE TABLE batches (
        run BLOB NOT NULL, counter INTEGER NOT NULL, state TEXT NOT NULL, version BLOB NOT NULL,
        detail BLOB NOT NULL, PRIMARY KEY (run, counter)) WITHOUT ROWID""",
    """CREATE TABLE journal (
        run BLOB NOT NULL, step INTEGER NOT NULL, batches BLOB NOT NULL,
        is_done INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (run, step)) WITHOUT ROWID""",
    """CREATE TABLE cuts (
        run BLOB NOT NULL, number INTEGER NOT NULL, root BLOB NOT NULL, event BLOB NOT NULL,
        state BLOB NOT NULL, PRIMARY KEY (run, number)) WITHOUT ROWID""",
    """CREATE TABLE fingerprints (
        run BLOB NOT NULL, fingerprint BLOB NOT NULL, commitment BLOB NOT NULL,
        PRIMARY KEY (run, fingerprint)) WITHOUT ROWID""",
    """CREATE TABLE evidence (
        run BLOB NOT NULL, commitment BLOB NOT NULL, digest BLOB NOT NULL, body BLOB NOT NULL,
        PRIMARY KEY (run, commitment, digest)) WITHOUT ROWID""",
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (_FIRST,)
