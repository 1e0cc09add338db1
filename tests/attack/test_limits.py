"""The limits on connections and gossip between real hosts, each exceeded (docs/protocol.md).

Different loopback addresses stand for different hosts. What needs no network: unit/test_limits.py.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress

import pytest
import trio
from libp2p.pubsub.pb import rpc_pb2

from primed.p2p import limits
from primed.p2p.errors import RemoteError
from primed.p2p.host import Libp2pNetwork

from ..net.hosts import LOCAL, ask, new_network, started, until
from .flooder import is_cut
from .test_connections import dial
from .test_floods import MESHSUB, framed

pytestmark = pytest.mark.trio


async def test_no_more_than_so_many_connections_whoever_dials() -> None:
    """Those that come have fewer places; those that we choose take the rest, and no more."""
    profile = limits.Profile(connections=6, target_peers=2, inbound_per_ip=8)
    one = new_network(profile=profile)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(one.running(["/ip4/127.1.0.1/tcp/0"], []))
        others = [new_network() for _ in range(12)]
        for other in others:
            await stack.enter_async_context(other.running([LOCAL], []))
        for other in others[:8]:
            with suppress(RemoteError):
                await other.connect(one.listen_addresses()[0])
        await trio.sleep(0.3)
        assert len(one.peers()) == profile.inbound == 5
        refused = 0
        for other in others[8:]:
            try:
                await one.connect(other.listen_addresses()[0])
            except RemoteError:
                refused += 1
        assert refused == 3 and len(one.peers()) == profile.connections
        swarm = one._running().swarm
        assert len(swarm.get_connections()) == profile.connections


async def test_no_more_than_so_many_of_one_subnet_and_others_come_in() -> None:
    profile = limits.HOME
    one = new_network(profile=profile)
    async with one.running(["/ip4/127.1.0.1/tcp/0"], []):
        [address] = one.listen_addresses()
        raws = [dial(f"127.66.6.{n + 1}", address) for n in range(profile.inbound_per_subnet + 4)]
        await until(lambda: sum(map(is_cut, raws)) == 4)
        assert one.traffic.refused_connections == 4
        other = new_network()
        async with other.running(["/ip4/127.2.0.1/tcp/0"], [address]):
            await until(lambda: len(one.peers()) == 1)
        for raw in raws:
            raw.close()


async def _storm(attacker: Libp2pNetwork, victim: bytes, count: int, number: int) -> None:
    """So many small RPCs on a stream of its own, then a subscription that shows the end."""
    stream = await attacker.open_stream(victim, MESHSUB)
    empty = framed(rpc_pb2.RPC(control=rpc_pb2.ControlMessage()))
    await stream.write_all(empty * count)
    end = [rpc_pb2.RPC.SubOpts(subscribe=True, topicid=f"end {number}")]
    await stream.write_all(framed(rpc_pb2.RPC(subscriptions=end)))


async def test_gossip_of_one_peer_waits_for_its_turn_on_however_many_streams(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "GOSSIP_RPCS_BURST", 20.0)
    monkeypatch.setattr(limits, "GOSSIP_RPCS_PER_S", 50.0)
    victim, attacker, friend = new_network(), new_network(), new_network()
    async with started(victim, attacker, friend):
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(_storm, attacker, victim.peer, 40, number)
        assert await ask(friend, victim.peer, b"alive") == b"alive"
        topics = victim._running().gossip.peer_topics
        await until(lambda: {f"end {n}" for n in range(4)} <= topics.keys())
        assert trio.current_time() - began > (160 - 20) / 50.0
        assert all(info.score == 0 for info in victim.peers())  # it waited, and was not told off
