"""Chains: what is known of every author's chain, in memory. Pure bookkeeping, 32 bytes an event.

Knowing every digest makes all questions exact and quick: seen before? the next one? a fork? Events
that came before their predecessors wait in `pending`, bounded for each author and in all.
"""

from __future__ import annotations

from collections.abc import Iterator

from primed.protocols.events.messages import Equivocation, Stored, Void
from primed.protocols.limits import AUTHORS_MAX, PENDING_PER_AUTHOR, PENDING_TOTAL
from primed.verify.digests import DIGEST_BYTES, digest, u64
from primed.verify.statements import Head


class Chains:
    def __init__(self, run: bytes) -> None:
        self.run = run
        self.originator = b""  # of the run: whose cuts may be large; b"": nobody's
        self.proofs: dict[bytes, tuple[int, Equivocation]] = {}  # author -> (seq, proof)
        self._digests: dict[bytes, bytearray] = {}
        self._pending: dict[bytes, dict[int, Stored]] = {}
        self._pending_total = 0
        self._summary: bytes | None = None

    def next_seq(self, author: bytes) -> int:
        return len(self._digests.get(author, b"")) // DIGEST_BYTES

    def digest_at(self, author: bytes, seq: int) -> bytes | None:
        found = self._digests.get(author, b"")[seq * DIGEST_BYTES : (seq + 1) * DIGEST_BYTES]
        return bytes(found) or None

    def prev_for(self, author: bytes, seq: int) -> bytes | None:
        """The `prev` that event `seq` must have: the digest before it, or the run id."""
        return self.digest_at(author, seq - 1) if seq else self.run

    def is_full_for(self, author: bytes) -> bool:
        """Whether this is one author too many."""
        return author not in self._digests and len(self._digests) >= AUTHORS_MAX

    def append(self, author: bytes, event_digest: bytes) -> None:
        self._digests.setdefault(author, bytearray()).extend(event_digest)
        self._summary = None

    def heads(self) -> list[Head]:
        """Sorted by author."""
        authors = sorted(self._digests)
        return [
            Head(a, self.next_seq(a) - 1, bytes(self._digests[a][-DIGEST_BYTES:])) for a in authors
        ]

    def valid_heads(self) -> list[Head]:
        """As `heads`, but each chain only up to where a proof ends it: what lies behind differs
        from node to node, and nobody needs it."""
        heads = []
        for head in self.heads():
            last = self.last_valid(head.author, head.seq)
            event_digest = self.digest_at(head.author, last) if last >= 0 else None
            if event_digest is not None:
                heads.append(Head(head.author, last, event_digest))
        return heads

    def summary(self) -> bytes:
        """Digest of all valid heads and proven authors: equal for two nodes that know the same."""
        if self._summary is None:
            heads = (
                field for h in self.valid_heads() for field in (h.author, u64(h.seq), h.digest)
            )
            voids = (field for v in self.voids() for field in (v.author, u64(v.seq)))
            self._summary = digest("heads", self.run, *heads, b"voids", *voids)
        return self._summary

    def voids(self) -> list[Void]:
        """Sorted by author."""
        return [Void(author, self.proofs[author][0]) for author in sorted(self.proofs)]

    def is_void(self, author: bytes, seq: int) -> bool:
        """Whether this place of the author's chain is at or behind a proven equivocation."""
        return author in self.proofs and seq >= self.proofs[author][0]

    def last_valid(self, author: bytes, seq: int) -> int:
        """seq, or the last place before a proven equivocation; -1 if none is left."""
        return self.proofs[author][0] - 1 if self.is_void(author, seq) else seq

    def set_proof(self, author: bytes, seq: int, proof: Equivocation) -> None:
        self.proofs[author] = (seq, proof)
        self._summary = None

    # ---- events whose predecessors are missing

    def hold(self, stored: Stored) -> bool:
        """Keep an early event until its predecessors are here; False if it is known or no room."""
        author, seq = stored.event.author, stored.event.seq
        waiting = self._pending.setdefault(author, {})
        if seq in waiting or self._pending_total >= PENDING_TOTAL:
            return False
        if len(waiting) >= PENDING_PER_AUTHOR:
            furthest = max(waiting)
            if seq > furthest:
                return False
            self._release(author, furthest)
            waiting = self._pending.setdefault(author, {})
        waiting[seq] = stored
        self._pending_total += 1
        return True

    def pending_at(self, author: bytes, seq: int) -> Stored | None:
        return self._pending.get(author, {}).get(seq)

    def take_ready(self, author: bytes) -> Iterator[Stored]:
        """Held events that are no longer ahead of the chain, lowest first; each is handed over."""
        expected = self.next_seq(author)
        while waiting := self._pending.get(author):
            lowest = min(waiting)
            if lowest > expected:
                return
            expected = max(expected, lowest + 1)
            yield self._release(author, lowest)

    def _release(self, author: bytes, seq: int) -> Stored:
        stored = self._pending[author].pop(seq)
        self._pending_total -= 1
        if not self._pending[author]:
            del self._pending[author]
        return stored
