"""EventLog: the signed events of one run, ours and everybody's, complete and in chain order.

The daemon makes one for the run it takes part in, loads it, recovers its own head, then runs
`run()` supervised. Emitting and receiving go through the journal; gossip brings news quickly,
anti-entropy brings what gossip lost.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress

import trio

from primed.p2p import peerid
from primed.p2p.errors import RemoteError
from primed.p2p.network import Acceptance, PeerId
from primed.protocols.by_run import RunServers
from primed.protocols.events.journal import Journal, OnEntry, OnEquivocation
from primed.protocols.events.messages import (
    GetHead,
    GetHeads,
    GetRange,
    Heads,
    Range,
    Request,
    SignedEvent,
    Stored,
    requests,
    responses,
)
from primed.protocols.events.store import EventStore
from primed.protocols.events.sync import Recovery, Sync
from primed.protocols.events.validation import validate_message
from primed.protocols.limits import (
    ANSWER_WITHIN_S,
    ANTI_ENTROPY_S,
    BRANCH_PEERS,
    EVENT_MAX_BYTES,
    INBOX_EVENTS,
    PIECE_WITHIN_S,
    RANGE_EVENTS,
    RANGE_MAX_BYTES,
    RECOVER_HEAD_S,
    SMALL_ANSWER_BYTES,
    VISIT_MAX_S,
)
from primed.protocols.rpc import Attachment, Refused
from primed.protocols.server import Reply
from primed.protocols.topics import events_topic
from primed.verify.signing import Signer
from primed.verify.statements import Body, Entry, Head

PROTOCOL = "/primed/events/1"
SYNC_QUEUE = 64


class EventLog:
    def __init__(
        self,
        servers: RunServers,
        store: EventStore,
        run_id: bytes,
        identity_peer: bytes,
        sign: Signer,
        wall_clock: Callable[[], int],
        rng: random.Random,
        originator: bytes = b"",
    ) -> None:
        """wall_clock: unix milliseconds. rng chooses the peers to compare heads with. originator:
        of the run, the only one whose cuts may be large."""
        self.dropped_events = 0  # inbox full; anti-entropy brings them
        self._network = network = servers.network
        self._me = identity_peer
        self._sign = sign
        self._wall_clock = wall_clock
        self._rng = rng
        self._topic = events_topic(run_id)
        self._journal = Journal(store, run_id)
        self._chains = self._journal.chains
        self._chains.originator = originator
        client = servers.client(PROTOCOL, responses)
        self._sync = Sync(network, client, self._journal, wall_clock)
        self._arrived, self._inbox = trio.open_memory_channel[tuple[PeerId, Stored]](INBOX_EVENTS)
        self._to_visit: dict[PeerId, None] = {}  # each peer once, in the order they came
        self._visit = trio.Event()
        servers.serve(PROTOCOL, requests, run_id, self._answer)
        network.on_peer(self._on_peer)

    # ---- for the daemon

    def on_entry(self, callback: OnEntry) -> None:
        """Call it with every event that is newly stored, own or foreign, each author's in order."""
        self._journal.entry_callbacks.append(callback)

    def on_equivocation(self, callback: OnEquivocation) -> None:
        """Call it with (author, seq, proof): the author's events from seq on are void."""
        self._journal.equivocation_callbacks.append(callback)

    async def load(self) -> None:
        """Read the store. First of all, once."""
        await self._journal.load()

    async def replay(self, callback: OnEntry) -> None:
        """Call with every event stored so far, each author's in chain order."""
        await self._journal.replay(callback)

    async def recover_own_head(self, deadline_s: float = RECOVER_HEAD_S) -> Recovery:
        """Before the first emit: adopt our own events that peers have and the store lost."""
        return await self._sync.recover(self._me, deadline_s)

    async def emit(self, body: Body) -> Entry:
        """Sign and store our next event, then gossip it. Durable when it returns or is cancelled
        while publishing. Raises LocalError for a body that is too large or not finite, and what
        the store raises."""
        stored, message = await self._journal.emit(self._me, body, self._wall_clock(), self._sign)
        await self._network.publish(self._topic, message)
        return stored.entry

    async def branch(self, head: Head, start: int, prev: bytes, first: PeerId) -> list[Entry]:
        """An author's events from start (which follows `prev`) to this head, from any peer that
        has them, `first` before the others; [] if none does. For an author who has equivocated
        since: our own chain may hold the other branch, or end before it. Nothing is stored."""
        others = sorted(info.peer for info in self._network.peers() if info.peer != first)
        for peer in (first, *others)[:BRANCH_PEERS]:
            if peer == self._me:
                continue
            try:
                found = await self._sync.branch(peer, head, start, prev)
            except RemoteError:
                continue
            if found:
                return [stored.entry for stored in found]
        return []

    def heads(self) -> list[Head]:
        """Newest event of every author, sorted by author: the table a cut is made of."""
        return self._chains.heads()

    def summary(self) -> bytes:
        """Equal for two nodes that know the same events and proofs."""
        return self._chains.summary()

    def digest_at(self, author: bytes, seq: int) -> bytes | None:
        """Name of an author's event, None if it is not here."""
        return self._chains.digest_at(author, seq)

    def voids(self) -> dict[bytes, int]:
        """Authors proven to have equivocated: their events from this seq on are void."""
        return {void.author: void.seq for void in self._chains.voids()}

    async def run(self) -> None:
        """Receive and compare until cancelled."""
        self._network.subscribe(self._topic, self._validate, self._deliver)
        for info in self._network.peers():
            self._ask_soon(info.peer)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._take_in)
                nursery.start_soon(self._sync_loop)
                nursery.start_soon(self._tick)
        finally:
            self._network.unsubscribe(self._topic)

    # ---- gossip

    def _validate(self, sender: PeerId, message: bytes) -> Acceptance:
        return validate_message(self._chains, self._wall_clock(), message).acceptance

    def _deliver(self, sender: PeerId, message: bytes) -> None:
        stored = validate_message(self._chains, self._wall_clock(), message).stored
        if stored is None:
            return
        try:
            self._arrived.send_nowait((sender, stored))
        except trio.WouldBlock:
            self.dropped_events += 1

    async def _take_in(self) -> None:
        """Store what gossip brought, all that waits in one write; a gap or a fork is cleared up
        with the peer it came from."""
        while True:
            batch = [await self._inbox.receive()]
            while len(batch) < RANGE_EVENTS and self._inbox.statistics().current_buffer_used:
                batch.append(self._inbox.receive_nowait())
            forks = await self._journal.admit([stored for _, stored in batch])
            for sender, stored in batch:
                event = stored.event
                if stored in forks or event.seq > self._chains.next_seq(event.author):
                    self._ask_soon(sender)

    # ---- anti-entropy

    def _on_peer(self, peer: PeerId, connected: bool) -> None:
        if connected:
            self._ask_soon(peer)

    def _ask_soon(self, peer: PeerId) -> None:
        if len(self._to_visit) < SYNC_QUEUE:  # else enough to do; the tick comes round to it
            self._to_visit.setdefault(peer)
            self._visit.set()

    async def _tick(self) -> None:
        while True:
            await trio.sleep(ANTI_ENTROPY_S * self._rng.uniform(0.7, 1.3))
            if peers := sorted(info.peer for info in self._network.peers()):
                self._ask_soon(self._rng.choice(peers))

    async def _sync_loop(self) -> None:
        while True:
            await self._visit.wait()
            while self._to_visit:
                peer = next(iter(self._to_visit))
                del self._to_visit[peer]
                await self._compare(peer)
            self._visit = trio.Event()

    async def _compare(self, peer: PeerId) -> None:
        def whom() -> str:
            return f"what peer {peerid.short(peer)} has"

        name = f"events of run {self._chains.run.hex()[:8]}"
        wait = self._network.waits.named(name, whom, VISIT_MAX_S)
        with suppress(RemoteError), wait, trio.move_on_after(VISIT_MAX_S):  # charged where found
            if not await self._sync.with_peer(peer):
                self._ask_soon(peer)

    # ---- answers

    async def _answer(self, peer: PeerId, message: Request, _: Attachment) -> Reply:
        if isinstance(message, GetHeads):
            if message.summary == self._chains.summary():
                return Reply(Heads((), ()))
            return Reply(Heads(tuple(self._chains.valid_heads()), tuple(self._chains.voids())))
        if isinstance(message, GetHead):
            heads = [head for head in self._chains.heads() if head.author == message.author]
            return Reply(Heads(tuple(heads), ()))
        if isinstance(message, GetRange):
            found = await self._journal.read(message.author, message.start, message.count)
            return Reply(Range(await self._within_cap(found)))
        if message.author not in self._chains.proofs:
            raise Refused("not_found", "no proof against this author")
        return Reply(self._chains.proofs[message.author][1])

    async def _within_cap(self, events: list[SignedEvent]) -> tuple[SignedEvent, ...]:
        """As many as one answer may hold, and the upload allowance lets pass soon; few pass free,
        and in quiet hours."""
        uploads = self._network.uploads
        most = min(RANGE_MAX_BYTES, ANSWER_WITHIN_S * uploads.cap_bytes_per_s)
        found = _within(events, SMALL_ANSWER_BYTES if uploads.why_not()[0] else most)
        if (size_bytes := sum(len(signed.event) for signed in found)) > EVENT_MAX_BYTES:
            await trio.sleep(min(uploads.reserve(size_bytes), PIECE_WITHIN_S))
        return found


def _within(events: list[SignedEvent], most_bytes: float) -> tuple[SignedEvent, ...]:
    """As many of the events as fit into this, at least one."""
    total, count = 0, 0
    for signed in events:
        total += len(signed.event)
        if count and total > most_bytes:
            break
        count += 1
    return tuple(events[:count])
