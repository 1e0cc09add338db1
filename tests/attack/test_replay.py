"""Signed messages out of their place (scenario 29), and clocks ten minutes off (scenario 11).

What is old is ignored and costs nothing: honest peers repeat things. What was signed for another
run, for another purpose or by somebody else is rejected. Simulated time.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import trio
import trio.testing

from primed.p2p.errors import RemoteError
from primed.p2p.network import Acceptance
from primed.protocols.by_run import RunServers
from primed.protocols.disk import inline
from primed.protocols.events import EventLog, SignedEvent
from primed.protocols.events.messages import Event
from primed.protocols.framing import encode
from primed.protocols.hello import Hello, NodeRecord
from primed.protocols.hello.records import open_record, sign_record
from primed.protocols.limits import CLOCK_AHEAD_MS, RECORD_LIFE_S
from primed.protocols.shardcast.gossip import validate_shard
from primed.protocols.shardcast.messages import Shard, shards_message
from primed.protocols.topics import events_topic
from primed.verify import merkle
from primed.verify.signing import message_to_sign
from primed.verify.statements import Entry, Payload

from ..net.memory_network import Fabric, Key, MemoryNetwork
from ..net.protocol_samples import NOW_MS, RUN, MemoryEvents, skipped

pytestmark = pytest.mark.trio
TOPIC, OTHER_RUN = events_topic(RUN), bytes(reversed(RUN))
TEN_MINUTES_S = 600.0


@pytest.fixture(autouse=True)
def no_threads() -> Iterator[None]:
    with inline():
        yield


class Node:
    """A node of the run whose clock is wrong by so much."""

    def __init__(self, network: MemoryNetwork, skew_s: float = 0.0) -> None:
        self.network, self.skew_s = network, skew_s
        self.entries: list[Entry] = []
        servers, key = RunServers(network), network.key
        rng = random.Random(key.peer)
        self.log = EventLog(servers, MemoryEvents(), RUN, key.peer, key.sign, self.unix_ms, rng)
        self.log.on_entry(self.entries.append)

    def unix_ms(self) -> int:
        return NOW_MS + int((trio.current_time() + self.skew_s) * 1000)

    def authors(self) -> set[bytes]:
        return {entry.author for entry in self.entries}


@asynccontextmanager
async def swarm_of(*skews_s: float) -> AsyncIterator[tuple[Fabric, list[Node]]]:
    async with trio.open_nursery() as nursery:
        fabric = Fabric(nursery)
        nodes = [Node(fabric.node(n + 1), skew_s) for n, skew_s in enumerate(skews_s)]
        with inline():
            for node in nodes:
                await node.log.load()
                nursery.start_soon(node.log.run)
        await trio.testing.wait_all_tasks_blocked()
        fabric.link_all()
        yield fabric, nodes
        assert not any(node.network.handler_errors for node in nodes)
        nursery.cancel_scope.cancel()


def event_of(key: Key, run: bytes = RUN, seq: int = 0) -> bytes:
    return encode(Event(run, key.peer, seq, run, NOW_MS, skipped(seq)))


def signed(key: Key, event: bytes, domain: str = "event") -> bytes:
    return encode(SignedEvent(event, key.sign(message_to_sign(domain, event))))


@contextmanager
def costs(node: Node, points: int) -> Iterator[None]:
    """What is sent meanwhile changes nothing but the sender's score, by so much."""
    entries, before = list(node.entries), len(node.network.penalties)
    yield
    assert node.entries == entries and not node.log.voids()
    assert sum(lost for _, lost, _ in node.network.penalties[before:]) == points


async def test_scenario_29_what_is_old_is_ignored_and_costs_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with swarm_of(0, 0) as (fabric, (a, b)):
        for counter in range(4):
            await b.log.emit(skipped(counter))
        await trio.sleep(10)
        assert len(a.entries) == 4
        attacker = fabric.node(66)
        old = [encode(one) for one in await b.log._journal.read(b.network.peer, 0, 4)]
        with costs(a, 0):
            for message in (*old, *reversed(old)):
                a.network._seen.clear()  # long forgotten by gossip
                a.network.receive(attacker.peer, TOPIC, message)
            await trio.sleep(10)


@pytest.mark.parametrize("fault", ["another run", "another purpose", "another author", "a bit"])
async def test_scenario_29_what_was_signed_for_something_else_is_rejected(
    fault: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with swarm_of(0) as (fabric, (a,)):
        attacker, honest = fabric.node(66), Key(5)
        event = event_of(honest)
        message = {
            "another run": signed(honest, event_of(honest, OTHER_RUN)),
            "another purpose": signed(honest, event, "record"),
            "another author": signed(attacker.key, event),
            "a bit": signed(honest, event)[:-1] + bytes([signed(honest, event)[-1] ^ 1]),
        }[fault]
        with costs(a, 5):
            a.network.receive(attacker.peer, TOPIC, message)
            await trio.sleep(5)
        a.network.receive(attacker.peer, TOPIC, signed(honest, event))  # in its place it counts
        await trio.sleep(5)
        assert a.authors() == {honest.peer}


async def test_scenario_29_shards_signed_for_another_run_or_payload_are_rejected() -> None:
    learner, leaf = Key(1), b"x" * 2000
    payload = Payload(merkle.root_of([merkle.leaf_hash(leaf)]), len(leaf), 64 * 1024)
    other = Payload(merkle.root_of([merkle.leaf_hash(leaf)]), len(leaf), 32 * 1024)

    def judged(run: bytes, signed_for: Payload) -> Acceptance:
        signature = learner.sign(shards_signed(run, learner.peer, signed_for))
        message = encode(Shard(payload, signature, 0, leaf, ()))
        return validate_shard(RUN, learner.peer, lambda *_: False, message).acceptance

    assert judged(RUN, payload) is Acceptance.ACCEPT
    assert judged(OTHER_RUN, payload) is Acceptance.REJECT
    assert judged(RUN, other) is Acceptance.REJECT


def shards_signed(run: bytes, learner: bytes, payload: Payload) -> bytes:
    return message_to_sign("shards", shards_message(run, learner, payload))


def hello_of(network: MemoryNetwork) -> Hello:
    def record() -> NodeRecord:
        return record_of(network.peer, NOW_MS)

    return Hello(network, record, network.key.sign, dict, lambda: NOW_MS)


def record_of(peer: bytes, sequence: int, life_s: float = RECORD_LIFE_S) -> NodeRecord:
    expires = NOW_MS + int(life_s * 1000)
    return NodeRecord(peer, (), (), (), (), "", sequence, expires)


async def test_scenario_29_an_old_record_replaces_no_newer_one_and_a_dead_one_counts_for_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        hello, key = hello_of(Fabric(nursery).node(1)), Key(2)
        for sequence in (5, 4, 6, 5):
            signed_record = sign_record(record_of(key.peer, sequence), key.sign)
            hello._keep(open_record(signed_record, key.peer), signed_record)
        assert hello.records[key.peer].sequence == 6
        dead, stranger = record_of(Key(3).peer, 9, -CLOCK_AHEAD_MS / 1000 - 1), Key(3)
        signed_record = sign_record(dead, stranger.sign)
        with pytest.raises(RemoteError, match="expired") as caught:
            hello._keep(open_record(signed_record, stranger.peer), signed_record)
        assert caught.value.penalty == 0  # its clock may be wrong


async def test_scenario_11_a_clock_ten_minutes_ahead_is_ignored_and_not_charged(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with swarm_of(0, 0, TEN_MINUTES_S) as (_, (a, b, ahead)):
        for node in (a, b, ahead):
            await node.log.emit(skipped(0))
        await trio.sleep(60)
        honest = {a.network.peer, b.network.peer}
        assert a.authors() == b.authors() == honest
        assert ahead.authors() == honest | {ahead.network.peer}  # it follows all the same
        await trio.sleep(TEN_MINUTES_S)  # what it said comes true
        assert a.authors() == b.authors() == ahead.authors()
        assert not any(node.network.penalties for node in (a, b, ahead))


async def test_scenario_11_a_clock_ten_minutes_behind_is_heard_and_hears_once_it_is_set(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with swarm_of(0, 0, -TEN_MINUTES_S) as (_, (a, b, behind)):
        for node in (a, b, behind):
            await node.log.emit(skipped(0))
        await trio.sleep(60)
        assert a.authors() == b.authors() == {n.network.peer for n in (a, b, behind)}
        assert behind.authors() == {behind.network.peer}
        behind.skew_s = 0.0
        await trio.sleep(60)
        assert behind.authors() == a.authors()
        assert not any(node.network.penalties for node in (a, b, behind))
