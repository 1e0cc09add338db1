"""The event log between nodes: gossip, gaps, late joiners, lost stores and authors who lie."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime

import pytest
import trio
import trio.testing

from primed.p2p.errors import LocalError
from primed.p2p.hours import QuietHours
from primed.p2p.uploads import Uploads
from primed.protocols.by_run import RunServers
from primed.protocols.disk import inline
from primed.protocols.events import (
    PROTOCOL,
    EventLog,
    SignedEvent,
    Stored,
    event_digest,
    proven_place,
)
from primed.protocols.events.journal import TOLD_AT_ONCE, Journal
from primed.protocols.events.messages import (
    Event,
    GetHeads,
    GetRange,
    Heads,
    Range,
    Request,
    requests,
)
from primed.protocols.framing import encode
from primed.protocols.rpc import Attachment
from primed.protocols.server import Reply
from primed.protocols.topics import events_topic
from primed.verify.signing import message_to_sign
from primed.verify.statements import Body, Entry, Head, Skipped, Verdict

from .memory_network import Fabric, Key, MemoryNetwork
from .protocol_samples import JOINED, NOW_MS, RUN, MemoryEvents, skipped

pytestmark = pytest.mark.trio


class Node:
    def __init__(self, network: MemoryNetwork, store: MemoryEvents | None = None) -> None:
        self.network = network
        self.store = store or MemoryEvents()
        self.entries: list[Entry] = []
        self.void: list[tuple[bytes, int]] = []
        rng = random.Random(network.peer)
        key = network.key
        self.log = EventLog(
            RunServers(network), self.store, RUN, key.peer, key.sign, lambda: NOW_MS, rng
        )
        self.log.on_entry(self.entries.append)
        self.log.on_equivocation(lambda author, seq, proof: self.void.append((author, seq)))

    def counters(self, author: bytes) -> list[int]:
        bodies = [entry.body for entry in self.entries if entry.author == author]
        return [body.counter for body in bodies if isinstance(body, Skipped)]


@asynccontextmanager
async def fabric_of(*seeds: int) -> AsyncIterator[tuple[Fabric, list[Node]]]:
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            fabric = Fabric(nursery)
            nodes = [Node(fabric.node(seed)) for seed in seeds]
            for node in nodes:
                await node.log.load()
                nursery.start_soon(node.log.run)
            await trio.testing.wait_all_tasks_blocked()
            yield fabric, nodes
            assert not any(node.network.handler_errors for node in nodes)
            nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await trio.sleep(0.01)


def signed_by(key: Key, seq: int, prev: bytes, body: Body, unix_ms: int = NOW_MS) -> SignedEvent:
    data = encode(Event(RUN, key.peer, seq, prev, unix_ms, body))
    return SignedEvent(data, key.sign(message_to_sign("event", data)))


async def test_events_reach_nodes_that_are_not_neighbours_in_chain_order() -> None:
    async with fabric_of(1, 2, 3) as (fabric, (a, b, c)):
        fabric.link(a.network, b.network)
        fabric.link(b.network, c.network)
        for counter in range(5):
            entry = await a.log.emit(skipped(counter))
            assert entry.seq == counter
        await until(lambda: len(c.entries) == 5)
        assert c.counters(a.network.peer) == list(range(5))
        assert c.log.heads() == a.log.heads()


async def test_a_late_joiner_gets_the_whole_history_and_a_restart_replays_it() -> None:
    async with fabric_of(1, 2) as (fabric, (a, b)):
        for counter in range(600):  # more than two ranges
            await a.log.emit(skipped(counter))
        fabric.link(a.network, b.network)
        await until(lambda: len(b.entries) == 600)
        assert b.counters(a.network.peer) == list(range(600))
        again = Node(fabric.node(9), b.store)
        await again.log.load()
        await again.log.replay(again.entries.append)
        assert again.counters(a.network.peer) == list(range(600))
        assert not a.network.penalties and not b.network.penalties


async def test_lost_gossip_is_filled_in_from_the_peer_that_brought_the_next_event() -> None:
    async with fabric_of(1, 2) as (fabric, (a, b)):
        fabric.link(a.network, b.network)
        await a.log.emit(skipped(0))
        await until(lambda: len(b.entries) == 1)
        fabric.drop = lambda sender, receiver, data: True
        await a.log.emit(skipped(1))
        await a.log.emit(skipped(2))
        fabric.drop = lambda sender, receiver, data: False
        await a.log.emit(skipped(3))
        await until(lambda: len(b.entries) == 4)
        assert b.counters(a.network.peer) == [0, 1, 2, 3]


async def test_scenario_42_a_node_that_lost_its_store_goes_on_after_its_own_chain() -> None:
    async with fabric_of(1, 2) as (fabric, (a, b)):
        fabric.link(a.network, b.network)
        for counter in range(3):
            await a.log.emit(skipped(counter))
        await until(lambda: len(b.entries) == 3)
        reborn = Node(a.network)  # same key, empty store
        await reborn.log.load()
        recovery = await reborn.log.recover_own_head(5.0)
        assert (recovery.answered, recovery.adopted) == (1, 3)
        assert "3 of our own events" in str(recovery)
        assert (await reborn.log.emit(skipped(3))).seq == 3
        await until(lambda: len(b.entries) == 4)
        assert not b.void


async def test_without_an_answer_the_local_store_counts_and_says_so() -> None:
    async with fabric_of(1) as (_, (a,)):
        recovery = await a.log.recover_own_head(0.1)
        assert recovery.answered == 0 and "local store counts" in str(recovery)
        assert (await a.log.emit(JOINED)).seq == 0


async def test_scenario_30_two_events_for_one_place_convict_their_author_everywhere() -> None:
    async with fabric_of(1, 2, 3) as (fabric, nodes):
        a, b, c = nodes
        liar = fabric.node(66)
        fabric.link(liar, a.network)
        fabric.link(liar, b.network)
        zero = signed_by(liar.key, 0, RUN, JOINED)
        for_a = signed_by(liar.key, 1, event_digest(zero.event), skipped(1))
        for_b = signed_by(liar.key, 1, event_digest(zero.event), skipped(2))
        topic = events_topic(RUN)
        for signed in (zero, for_a):
            a.network.receive(liar.peer, topic, encode(signed))
        for signed in (zero, for_b):
            b.network.receive(liar.peer, topic, encode(signed))
        await until(lambda: len(a.entries) == len(b.entries) == 2)
        fabric.link(a.network, b.network)  # heads differ at the same place
        fabric.link(b.network, c.network)  # learns the proof by anti-entropy alone
        await until(lambda: all(node.void == [(liar.peer, 1)] for node in nodes))
        for node in nodes:
            (proof,) = node.store.proofs(RUN)
            assert proven_place(RUN, proof) == (liar.peer, 1)  # verifiable offline
            assert node.log.voids() == {liar.peer: 1}
        late = Node(fabric.node(4))
        fabric.nursery.start_soon(late.log.run)
        fabric.link(late.network, a.network)
        await until(lambda: late.void == [(liar.peer, 1)] and len(late.entries) == 1)
        assert late.entries[0].seq == 0  # what came before the lie still counts
        assert not any(peer != liar.peer for node in nodes for peer, _, _ in node.network.penalties)


async def test_a_fork_further_back_is_found_by_the_link_that_does_not_fit() -> None:
    async with fabric_of(1) as (fabric, (a,)):
        liar = fabric.node(66)
        ours = signed_by(liar.key, 0, RUN, skipped(0))
        a.network.receive(liar.peer, events_topic(RUN), encode(ours))
        await until(lambda: len(a.entries) == 1)
        b = Node(fabric.node(2))
        await b.log.load()
        fabric.nursery.start_soon(b.log.run)
        await trio.testing.wait_all_tasks_blocked()
        zero = signed_by(liar.key, 0, RUN, skipped(7))
        one = signed_by(liar.key, 1, event_digest(zero.event), skipped(8))
        for signed in (zero, one):
            b.network.receive(liar.peer, events_topic(RUN), encode(signed))
        await until(lambda: len(b.entries) == 2)
        fabric.link(a.network, b.network)
        await until(lambda: a.void == [(liar.peer, 0)])


async def test_invalid_bodies_are_our_own_bug_and_are_not_signed() -> None:
    async with fabric_of(1) as (_, (a,)):
        nan = Verdict(bytes(32), 0, "accept", "ok", {"x": float("nan")})
        with pytest.raises(LocalError):
            await a.log.emit(nan)
        assert a.log.heads() == []


async def test_a_store_that_fails_leaves_the_chain_as_it_was() -> None:
    async with fabric_of(1) as (_, (a,)):
        await a.log.emit(skipped(0))
        works = a.store.append

        def full(run: bytes, events: object) -> None:
            raise OSError("disk is full")

        a.store.append = full  # type: ignore[method-assign]
        with pytest.raises(OSError, match="full"):
            await a.log.emit(skipped(1))
        a.store.append = works  # type: ignore[method-assign]
        assert (await a.log.emit(skipped(1))).seq == 1


async def test_a_peer_whose_chain_never_ends_does_not_keep_others_from_their_turn(
    autojump_clock: trio.abc.Clock,
) -> None:
    """It signs one more event whenever it is asked for it, and takes nine seconds for that."""
    with inline():
        async with trio.open_nursery() as nursery:
            fabric = Fabric(nursery)
            honest, late, endless = Node(fabric.node(1)), Node(fabric.node(2)), fabric.node(3)
            for node in (honest, late):
                await node.log.load()
                nursery.start_soon(node.log.run)
            for counter in range(50):
                await honest.log.emit(skipped(counter))
            chain: list[SignedEvent] = []

            async def answer(peer: bytes, message: Request, _: Attachment) -> Reply:
                if isinstance(message, GetHeads):
                    return Reply(Heads((Head(endless.peer, 2**62, bytes(32)),), ()))
                assert isinstance(message, GetRange)
                await trio.sleep(9)
                prev = event_digest(chain[-1].event) if chain else RUN
                chain.append(signed_by(endless.key, len(chain), prev, skipped(len(chain))))
                return Reply(Range((chain[message.start],)))

            RunServers(endless).serve(PROTOCOL, requests, RUN, answer)
            fabric.link(late.network, endless)
            await trio.sleep(1)
            fabric.link(late.network, honest.network)
            with trio.fail_after(30):
                await until(lambda: len(late.counters(honest.network.peer)) == 50)
            heard = len(late.counters(endless.peer))
            await trio.sleep(60)
            assert len(late.counters(endless.peer)) > heard  # it has its turn, too
            assert not late.network.penalties
            nursery.cancel_scope.cancel()


async def test_ranges_keep_to_the_upload_cap_and_go_on_in_quiet_hours(
    autojump_clock: trio.abc.Clock,
) -> None:
    def capped(bytes_per_s: float, quiet: str = "") -> Uploads:
        hours = QuietHours.parse(quiet) if quiet else None
        noon = datetime(2026, 1, 1, 12)
        return Uploads(bytes_per_s, hours, clock=trio.current_time, local_time=lambda: noon)

    with inline():
        async with trio.open_nursery() as nursery:
            fabric = Fabric(nursery)
            full, late = Node(fabric.node(1)), Node(fabric.node(2))
            full.network._uploads = capped(20_000)
            for node in (full, late):
                await node.log.load()
            for counter in range(2000):
                await full.log.emit(skipped(counter))
            size_bytes = sum(
                len(signed.event) for signed in full.store.get(RUN, full.network.peer, 0, 2000)
            )
            for node in (full, late):
                nursery.start_soon(node.log.run)
            fabric.link(full.network, late.network)
            began = trio.current_time()
            with trio.fail_after(size_bytes / 20_000 + 30):
                await until(lambda: len(late.entries) == 2000)
            assert trio.current_time() - began > (size_bytes - 64 * 1024) / 20_000 - 1
            full.network._uploads = capped(20_000, "00:00-23:59")
            other = Node(fabric.node(3))
            await other.log.load()
            nursery.start_soon(other.log.run)
            fabric.link(full.network, other.network)
            with trio.fail_after(size_bytes / 10_000):
                await until(lambda: len(other.entries) == 2000)
            nursery.cancel_scope.cancel()


def a_chain(key: Key, length: int) -> list[Stored]:
    chain: list[Stored] = []
    for seq in range(length):
        event = Event(RUN, key.peer, seq, chain[-1].digest if chain else RUN, NOW_MS, skipped(seq))
        signed = signed_by(key, seq, event.prev, event.body)
        chain.append(Stored(signed, event, event_digest(signed.event)))
    return chain


async def test_other_tasks_have_turns_while_many_entries_are_told() -> None:
    """One write may bring hundreds of entries, and each costs the callbacks a millisecond."""
    store, told = MemoryEvents(), list[int]()
    journal = Journal(store, RUN)
    journal.entry_callbacks.append(lambda entry: told.append(entry.seq))
    longest = 0

    async def watch() -> None:
        nonlocal longest
        seen = len(told)
        while True:
            await trio.lowlevel.checkpoint()
            longest, seen = max(longest, len(told) - seen), len(told)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await journal.admit(a_chain(Key(1), 100))
        await journal.replay(lambda entry: told.append(entry.seq))
        nursery.cancel_scope.cancel()
    assert told == [*range(100), *range(100)]
    assert longest <= 2 * TOLD_AT_ONCE  # trio shuffles whose turn is first


async def test_what_is_stored_is_told_once_and_in_order_to_the_end_of_a_cancelled_task() -> None:
    store, told = MemoryEvents(), list[int]()
    journal, chain = Journal(store, RUN), a_chain(Key(1), 100)

    def tell(entry: Entry) -> None:
        told.append(entry.seq)
        if entry.seq == 5:
            scope.cancel()

    journal.entry_callbacks.append(tell)
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(journal.admit, chain[60:])  # waits for the lock, or is held
            await journal.admit(chain[:60])
    assert told == list(range(100))
    await journal.admit(chain)
    assert told == list(range(100))
