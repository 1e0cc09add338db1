"""All protocols once over real libp2p hosts on 127.0.0.1."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from primed.p2p.host import Libp2pNetwork
from primed.p2p.identity import Identity
from primed.protocols import events, hello, rollouts, shardcast, verdicts
from primed.protocols.by_run import RunServers
from primed.protocols.topics import events_topic, shards_topic
from primed.verify.digests import content_digest
from primed.verify.statements import Entry, Verdict

from .hosts import PROFILE, started, until
from .memory_network import Key
from .protocol_samples import NOW_MS, RUN, MemoryEvents, example_run, skipped

pytestmark = pytest.mark.trio
MIB = 1 << 20


class Node:
    """Everything a daemon serves, over a real host."""

    def __init__(self, folder: Path) -> None:
        identity = Identity.generate()
        self.me = identity.peer
        self.network = Libp2pNetwork(identity, profile=PROFILE)
        self.servers = RunServers(self.network)
        self.entries: list[Entry] = []
        me, sign, rng = identity.peer, identity.sign, random.Random(1)
        record = hello.NodeRecord(me, ("worker",), (), (), (), "cpu", 1, NOW_MS)
        run = example_run(Key(1))
        known = {run.run_id: run.signed}
        self.hello = hello.Hello(self.network, lambda: record, sign, lambda: known, lambda: NOW_MS)
        self.log = events.EventLog(self.servers, MemoryEvents(), RUN, me, sign, lambda: NOW_MS, rng)
        self.log.on_entry(self.entries.append)
        store = shardcast.PayloadStore(folder / "payloads")
        self.cast = shardcast.Shardcast(self.servers, store, RUN, me, sign, rng)
        self.rollouts = rollouts.Rollouts(
            self.servers, RUN, me, sign, folder / "batches", lambda worker, counter: ""
        )
        evidence = verdicts.Evidence(Verdict(RUN, 0, "reject", "proof", {}), "seen")
        self.verdicts = verdicts.Verdicts(self.network, lambda run, commitment: evidence)


@asynccontextmanager
async def two_nodes(folder: Path) -> AsyncIterator[tuple[Node, Node]]:
    a, b = Node(folder / "a"), Node(folder / "b")
    async with started(a.network, b.network), trio.open_nursery() as nursery:
        for node, other in ((a, b), (b, a)):
            for run in (node.hello.run, node.log.run, node.cast.run):
                nursery.start_soon(run)
            node.cast.follow(other.me)
        yield a, b
        for node in (a, b):
            assert node.network.traffic.handler_errors == 0
            assert all(info.score >= 0 for info in node.network.peers())
        nursery.cancel_scope.cancel()


def knows_topic(node: Node, topic: str) -> bool:
    return any(topic in info.topics for info in node.network.peers())


async def test_hello_events_rollouts_and_verdicts_over_real_hosts(tmp_path: Path) -> None:
    with trio.fail_after(40):
        async with two_nodes(tmp_path) as (a, b):
            await until(lambda: b.me in a.hello.records and a.me in b.hello.records)
            (run_id,) = await a.hello.list_runs(b.me)
            assert (await a.hello.get_run(b.me, run_id)).spec.name == "test"
            await until(lambda: knows_topic(a, events_topic(RUN)))
            for counter in range(20):
                await a.log.emit(skipped(counter))
            await until(lambda: len(b.entries) == 20)
            assert b.log.heads() == a.log.heads()
            path = tmp_path / "batch"
            path.write_bytes(random.Random(1).randbytes(3 * MIB))
            batch = content_digest(path.read_bytes())
            receipt = await a.rollouts.push(b.me, path, counter=0, batch=batch, root=RUN)
            assert receipt.holder == b.me
            fetched = await a.rollouts.fetch(b.me, batch, 3 * MIB)
            assert fetched.read_bytes() == path.read_bytes()
            assert (await a.verdicts.get(b.me, RUN, RUN)).detail == "seen"


async def test_payloads_are_pushed_and_pulled_over_real_hosts(tmp_path: Path) -> None:
    with trio.fail_after(40):
        async with two_nodes(tmp_path) as (a, b):
            small, large = tmp_path / "small", tmp_path / "large"
            small.write_bytes(random.Random(1).randbytes(MIB))
            large.write_bytes(random.Random(2).randbytes(12 * MIB))
            await until(lambda: knows_topic(a, shards_topic(RUN, a.me)))
            pushed, pulled = await a.cast.add(small), await a.cast.add(large)
            b.cast.expect(pushed, a.me)
            assert await a.cast.push(pushed, a.me)
            assert (await b.cast.wait(pushed)).read_bytes() == small.read_bytes()
            assert b.cast.received_gossip_bytes > 0
            b.cast.expect(pulled, a.me)
            assert (await b.cast.wait(pulled)).read_bytes() == large.read_bytes()
