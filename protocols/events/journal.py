"""Journal: the chains of one run on disk and in memory, in step. The only writer of the store.

Order of every write: durable in the store, then known in memory, then told to the callbacks; the
caller publishes after that. All writes are serialised by one lock, so callbacks see each author's
events in chain order. Used by the event log (`service`) and its anti-entropy (`sync`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import trio

from primed.p2p.errors import LocalError
from primed.protocols.disk import on_disk
from primed.protocols.events.chains import Chains
from primed.protocols.events.messages import (
    Equivocation,
    Event,
    SignedEvent,
    Stored,
    event_digest,
    events,
)
from primed.protocols.events.store import EventStore
from primed.protocols.events.validation import proven_place
from primed.protocols.framing import decode, encode, is_finite
from primed.protocols.limits import CUT_MAX_BYTES, EVENT_MAX_BYTES, RANGE_EVENTS
from primed.verify import signing
from primed.verify.statements import Body, Cut, Entry

TOLD_AT_ONCE = 16  # entries, then other tasks have a turn
OnEntry = Callable[[Entry], None]
OnEquivocation = Callable[[bytes, int, Equivocation], None]  # (author, seq, proof)


class Journal:
    def __init__(self, store: EventStore, run: bytes) -> None:
        self.chains = Chains(run)
        self.entry_callbacks: list[OnEntry] = []
        self.equivocation_callbacks: list[OnEquivocation] = []
        self._store = store
        self._lock = trio.Lock()

    async def load(self) -> None:
        """Read what is stored into memory. Call once, before anything else."""
        run = self.chains.run

        def read() -> tuple[list[tuple[bytes, bytes]], list[Equivocation]]:
            links = [(s.event.author, s.digest) for s in self._stored_events()]
            return links, self._store.proofs(run)

        links, proofs = await on_disk(read)
        for author, digest in links:
            self.chains.append(author, digest)
        for proof in proofs:
            if place := proven_place(run, proof):
                self.chains.set_proof(*place, proof)

    async def replay(self, callback: OnEntry) -> None:
        """Call with every stored event, each author's in chain order."""
        for head in self.chains.heads():
            for start in range(0, head.seq + 1, RANGE_EVENTS):
                signed = await self.read(head.author, start, RANGE_EVENTS)
                for number, each in enumerate(signed, 1):
                    callback(_stored(each).entry)
                    await _let_others_run(number)

    async def read(self, author: bytes, start: int, count: int) -> list[SignedEvent]:
        return await on_disk(self._store.get, self.chains.run, author, start, count)

    async def emit(
        self, author: bytes, body: Body, unix_ms: int, sign: signing.Signer
    ) -> tuple[Stored, bytes]:
        """Append our own next event. Returns it and the message to publish."""
        async with self._lock:
            seq = self.chains.next_seq(author)
            prev = self.chains.prev_for(author, seq)
            assert prev is not None
            event = Event(self.chains.run, author, seq, prev, unix_ms, body)
            data = encode(event)
            limit = CUT_MAX_BYTES if isinstance(body, Cut) else EVENT_MAX_BYTES
            if len(data) > limit or not is_finite(body):
                raise LocalError(f"{type(body).__name__} event is not valid: {len(data)} bytes")
            signed = SignedEvent(data, sign(signing.message_to_sign("event", data)))
            stored = Stored(signed, event, event_digest(data))
            await self._append([stored])
            await self._drain(author)
            return stored, encode(signed)

    async def admit(self, incoming: Sequence[Stored]) -> list[Stored]:
        """Take in validated events in any order: append, hold, or convict.

        Returns the events that do not continue our chain (their `prev` is another than ours): a
        fork further back, which `sync` looks for.
        """
        forks: list[Stored] = []
        async with self._lock:
            while incoming:
                ready, conflicts = self._sorted_out(incoming, forks)
                if ready:
                    await self._append(ready)
                for stored in conflicts:
                    await self._convict_by(stored)
                authors = {stored.event.author for stored in ready}
                incoming = [s for author in authors for s in self.chains.take_ready(author)]
        return forks

    async def convict(self, proof: Equivocation) -> bool:
        """Keep a proof from elsewhere; False if it proves nothing."""
        place = proven_place(self.chains.run, proof)
        if place is None:
            return False
        async with self._lock:
            await self._keep_proof(*place, proof)
        return True

    def _sorted_out(
        self, incoming: Iterable[Stored], forks: list[Stored]
    ) -> tuple[list[Stored], list[Stored]]:
        """(events to append now, events that contradict ours); early ones are held, forks noted."""
        ready: list[Stored] = []
        conflicts: list[Stored] = []
        ends: dict[bytes, tuple[int, bytes]] = {}  # author -> next seq and its prev, with `ready`
        for stored in incoming:
            event = stored.event
            if self.chains.is_void(event.author, event.seq):
                continue
            seq = self.chains.next_seq(event.author)
            prev = self.chains.prev_for(event.author, seq)
            assert prev is not None
            seq, prev = ends.get(event.author, (seq, prev))
            if event.seq > seq:
                self._hold(stored, conflicts)
            elif event.seq < seq:
                if self.chains.digest_at(event.author, event.seq) != stored.digest:
                    conflicts.append(stored)  # or a repeat within `incoming`: compared later
            elif event.prev != prev:
                forks.append(stored)
            else:
                ready.append(stored)
                ends[event.author] = (seq + 1, stored.digest)
        return ready, conflicts

    def _hold(self, stored: Stored, conflicts: list[Stored]) -> None:
        held = self.chains.pending_at(stored.event.author, stored.event.seq)
        if held is not None and held.digest != stored.digest:
            conflicts.append(stored)
        else:
            self.chains.hold(stored)

    async def _append(self, ready: Sequence[Stored]) -> None:
        await on_disk(self._store.append, self.chains.run, ready)
        for stored in ready:
            self.chains.append(stored.event.author, stored.digest)
        for number, stored in enumerate(ready, 1):
            for callback in self.entry_callbacks:
                callback(stored.entry)
            await _let_others_run(number)

    async def _drain(self, author: bytes) -> None:
        """Own events of a former life that were held until now would contradict the new one."""
        for stored in list(self.chains.take_ready(author)):
            await self._convict_by(stored)

    async def _convict_by(self, second: Stored) -> None:
        author, seq = second.event.author, second.event.seq
        held = self.chains.pending_at(author, seq)
        first = held.signed if held else None
        if self.chains.digest_at(author, seq) is not None:
            first = (await self.read(author, seq, 1))[0]
        if first is not None and first.event != second.signed.event:
            await self._keep_proof(author, seq, Equivocation(first, second.signed))

    async def _keep_proof(self, author: bytes, seq: int, proof: Equivocation) -> None:
        """The lowest place counts: it voids the most."""
        if self.chains.is_void(author, seq):
            return
        await on_disk(self._store.add_proof, self.chains.run, author, proof)
        self.chains.set_proof(author, seq, proof)
        for callback in self.equivocation_callbacks:
            callback(author, seq, proof)

    def _stored_events(self) -> Iterator[Stored]:
        run = self.chains.run
        for head in self._store.heads(run):
            for start in range(0, head.seq + 1, RANGE_EVENTS):
                for signed in self._store.get(run, head.author, start, RANGE_EVENTS):
                    yield _stored(signed)


async def _let_others_run(number: int) -> None:
    """After some entries told: each may cost a millisecond. Not cancelled: what is stored is told."""
    if number % TOLD_AT_ONCE == 0:
        await trio.lowlevel.cancel_shielded_checkpoint()


def _stored(signed: SignedEvent) -> Stored:
    """An event of our own store: verified when it came."""
    return Stored(signed, decode(events, signed.event), event_digest(signed.event))
