"""Two different events under one (author, sequence): proof of misbehaviour.

The fork voids the author's events from there on: whoever proposes a cut never moves the author's
head past it, and a fold that is given both branches counts neither.
"""

from __future__ import annotations

from collections.abc import Iterable

from primed.verify.statements import Entry


def forks(entries: Iterable[Entry]) -> dict[bytes, int]:
    """Author -> lowest sequence number for which two different events are among the entries."""
    seen: dict[tuple[bytes, int], bytes] = {}
    found: dict[bytes, int] = {}
    for entry in entries:
        first = seen.setdefault((entry.author, entry.seq), entry.digest)
        if first != entry.digest:
            found[entry.author] = min(entry.seq, found.get(entry.author, entry.seq))
    return found


def without_forks(entries: Iterable[Entry], known: dict[bytes, int] | None = None) -> list[Entry]:
    """The entries before every fork, those in `known` included."""
    entries = list(entries)
    void = dict(known or {})
    for author, seq in forks(entries).items():
        void[author] = min(seq, void.get(author, seq))
    return [
        entry for entry in entries if entry.author not in void or entry.seq < void[entry.author]
    ]
