"""Quiet hours are for all lanes: shards are neither pushed nor passed on nor told of; events go on."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import pytest
import trio

from primed.p2p.host import Libp2pNetwork
from primed.p2p.hours import QuietHours
from primed.p2p.identity import Identity
from primed.p2p.uploads import Uploads
from primed.protocols.shardcast import transfer

from .hosts import ECHO, PROFILE, Inbox, echo, new_network, started, subscribers, until
from .memory_network import Fabric
from .test_protocol_shardcast import KIB, Node, a_file

pytestmark = pytest.mark.trio
NOON, NIGHT = datetime(2026, 1, 1, 12), datetime(2026, 1, 1, 23)


class Clock:
    def __init__(self) -> None:
        self.now = NIGHT
        quiet = QuietHours.parse("22:00-07:00")
        self.uploads = Uploads(quiet=quiet, local_time=lambda: self.now)


async def test_large_gossip_rests_and_small_gossip_goes_on() -> None:
    clock = Clock()
    quiet = Libp2pNetwork(Identity.generate(), profile=PROFILE, uploads=clock.uploads)
    quiet.handle(ECHO, echo)
    other = new_network()
    inbox = Inbox(other)
    async with started(quiet, other):
        await until(lambda: subscribers(quiet) == 1)
        await quiet.publish("t", os.urandom(64 * KIB))
        await quiet.publish("t", b"event")
        await until(lambda: bool(inbox.got))
        await trio.sleep(0.5)
        assert inbox.got == [b"event"]
        clock.now = NOON
        await quiet.publish("t", shard := os.urandom(64 * KIB))
        await until(lambda: shard in inbox.got)


async def test_a_learners_payload_waits_for_the_end_of_quiet_hours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "TICK_S", 0.05)
    clock = Clock()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            fabric = Fabric(nursery)
            a, b = (Node(fabric.node(seed), tmp_path / str(seed)) for seed in (1, 2))
            a.network._uploads = clock.uploads
            for node in (a, b):
                nursery.start_soon(node.cast.run)
            b.cast.follow(a.network.peer)
            fabric.link(a.network, b.network)
            file = a_file(tmp_path, 300 * KIB)
            payload = await a.cast.add(file)
            b.cast.expect(payload, a.network.peer)
            assert not await a.cast.push(payload, a.network.peer)
            while "none of 1 peers has them" not in b.cast.progress(payload).reason:
                await trio.sleep(0.05)
            assert not any(a.cast.carried().values())
            clock.now = NOON
            assert (await b.cast.wait(payload)).read_bytes() == file.read_bytes()
            assert not a.network.penalties and not b.network.penalties
            nursery.cancel_scope.cancel()
