"""js-libp2p, which shares no code with us, as a client: it is served like anybody, and can break
nothing. (Client and installation: client.py.)"""

from __future__ import annotations

import gc
import logging
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import trio
from libp2p.kad_dht.pb.kademlia_pb2 import Message as Kad
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils.varint import encode_uvarint

from primed.p2p import limits, peerid
from primed.p2p.host import Libp2pNetwork
from primed.p2p.network import Acceptance

from ..net.hosts import ECHO, LOCAL, Inbox, ask, new_network, started, subscribers, until
from .client import JsError, JsNode, JsProcess, js_process

pytestmark = [pytest.mark.trio, pytest.mark.timeout(400)]  # the first run installs
MESHSUB, KADEMLIA = "/meshsub/1.2.0", "/ipfs/kad/1.0.0"
PATIENCE_S = 30.0


def text_of(network: Libp2pNetwork) -> str:
    return peerid.to_text(network.peer)


def score_of(network: Libp2pNetwork, node: JsNode) -> float:
    return network._scores.score(peerid.from_text(node.peer), trio.current_time())


def is_connected(network: Libp2pNetwork, node: JsNode) -> bool:
    return peerid.from_text(node.peer) in {info.peer for info in network.peers()}


async def dialled(js: JsProcess, name: str, network: Libp2pNetwork, **options: bool) -> JsNode:
    """A new js node that is connected to a host, and identified by it."""
    node = await js.node(name, **options)
    await node.call("dial", address=network.listen_addresses()[0])
    host, peer = network._running().host, peerid.from_text(node.peer)
    await until(lambda: bool(host.protocols_of(peer)), PATIENCE_S)
    return node


async def test_a_js_node_dials_identifies_pings_and_finds_peers_by_the_dht() -> None:
    one, other = new_network(), new_network()
    async with started(one, other), js_process() as js:
        table = one._running().discovery.dht.routing_table
        await until(lambda: len(table.get_peer_ids()) == 1, PATIENCE_S)
        node = await dialled(js, "js", one, looks_around=True)
        known = await node.call("known", peer=text_of(one))
        assert {ECHO, MESHSUB, KADEMLIA, "/ipfs/ping/1.0.0"} <= set(known["protocols"])
        assert await node.call("ping", peer=text_of(one)) < 10_000
        found = await node.call("find", peer=text_of(other))
        assert found["from"] == text_of(one)
        port = other.listen_addresses()[0].split("/")[4]
        assert any(f"/tcp/{port}" in address for address in found["addresses"])
        payload = os.urandom(1_500_000)  # more than any window
        for network in (one, other):
            await node.call("dial", address=network.listen_addresses()[0])
            assert await node.say(text_of(network), ECHO, payload) == payload
        await _provided_both_ways(node, other)
        assert peerid.from_text(node.peer) not in {p.to_bytes() for p in table.get_peer_ids()}
        assert score_of(one, node) == score_of(other, node) == 0
        assert one.traffic.handler_errors == other.traffic.handler_errors == 0


async def _provided_both_ways(node: JsNode, network: Libp2pNetwork) -> None:
    ours, theirs = (b"\x12\x20" + os.urandom(32) for _ in range(2))  # as multihashes are
    await network.provide(ours)
    found = await node.call("providers", key=ours.hex())
    assert text_of(network) in {provider["peer"] for provider in found}
    await node.call("provide", key=theirs.hex())
    [(peer, addresses)] = await network.find_providers(theirs, 3)
    assert peerid.to_text(peer) == node.peer
    transport = node.addresses[0].partition("/p2p/")[0]
    assert transport in {address.partition("/p2p/")[0] for address in addresses}


async def test_we_can_dial_a_js_node_too() -> None:
    one = new_network()
    async with one.running([LOCAL], []), js_process() as js:
        node = await js.node("js")
        await one.connect(node.addresses[0])
        await until(lambda: bool(one._running().host.protocols_of(peerid.from_text(node.peer))))
        assert await node.call("connections") == [text_of(one)]
        assert await node.call("ping", peer=text_of(one)) < 10_000


async def follow(topic: str, *nodes: JsNode, hub: Libp2pNetwork, others: int) -> None:
    """Returns once js nodes and a host know of each other that they follow a topic."""
    for node in nodes:
        await node.call("follow", topics=[topic])
    await until(lambda: subscribers(hub, topic) == len(nodes) + others, PATIENCE_S)
    with trio.fail_after(PATIENCE_S):
        for node in nodes:
            while text_of(hub) not in await node.call("followers", topic=topic):
                await trio.sleep(0.05)


async def test_gossip_goes_both_ways_and_on_whole_and_signed() -> None:
    """Between a host and js nodes that know each other through another host only. One js node has
    the message ids of its library, which are not ours: it takes part all the same."""
    hub, host = new_network(), new_network()
    at_hub, at_host = Inbox(hub), Inbox(host)
    async with started(hub, host), js_process() as js:
        node = await dialled(js, "js", hub)
        odd = await dialled(js, "odd", hub, own_ids=True)
        await follow("t", node, odd, hub=hub, others=1)
        sent: dict[str, list[bytes]] = {text_of(host): [], node.peer: [], odd.peer: []}
        for size in (0, 1, 5_000, 300_000, limits.GOSSIP_MESSAGE_BYTES):
            for origin, so_far in sent.items():
                so_far.append(os.urandom(size))
                await _publish(so_far[-1], origin, host, node, odd)
                await until(partial(_has_arrived, so_far[-1], at_hub, at_host), PATIENCE_S)
        ours, nodes, odds = sent.values()
        await until(lambda: len(js.gossip) >= 4 * len(ours), PATIENCE_S)
        await trio.sleep(2.5)  # two heartbeats: what comes twice would have come
        assert sorted(at_hub.got) == sorted(ours + nodes + odds)
        assert sorted(node.received("t")) == sorted(ours + odds)
        assert sorted(odd.received("t")) == sorted(ours + nodes)
        assert all(data in sent[origin] for _, _, origin, data in js.gossip)
        for one in (node, odd):
            assert score_of(hub, one) == 0 == hub.traffic.gossip_rejected
            assert await one.call("score", peer=text_of(hub)) >= 0


async def _publish(data: bytes, origin: str, host: Libp2pNetwork, *nodes: JsNode) -> None:
    for node in nodes:
        if node.peer == origin:
            await node.call("publish", topic="t", data=data.hex())
            return
    await host.publish("t", data)


def _has_arrived(data: bytes, at_hub: Inbox, at_host: Inbox) -> bool:
    """At the host too, unless it is the host's own."""
    return data in at_hub.got and len(at_host.got) >= len(at_hub.got) // 3 * 2


# --- and when it means harm


def framed(message: bytes) -> bytes:
    return encode_uvarint(len(message)) + message


def forged(victim: Libp2pNetwork) -> bytes:
    """A message in the name of somebody who never signed it."""
    message = rpc_pb2.Message(
        data=b"forged", topicIDs=["t"], from_id=victim.peer, seqno=bytes(8), signature=b"x" * 64
    )
    return framed(rpc_pb2.RPC(publish=[message]).SerializeToString())


async def junk_gossip(node: JsNode, victim: Libp2pNetwork) -> None:
    rng = random.Random(1)
    for chunk in (b"\xff" * 30, b"\x13" + b"\xff" * 19, framed(rng.randbytes(5000)), b"\x7f") * 2:
        with suppress(JsError):  # that stream is reset
            await node.say(text_of(victim), MESHSUB, chunk)


async def oversized_gossip(node: JsNode, victim: Libp2pNetwork) -> None:
    size = limits.GOSSIP_RPC_BYTES + 1
    for _ in range(6):
        with suppress(JsError):
            await node.say(text_of(victim), MESHSUB, encode_uvarint(size), *[b"x" * 100_000] * 12)


async def forged_gossip(node: JsNode, victim: Libp2pNetwork) -> None:
    for _ in range(3):
        await node.say(text_of(victim), MESHSUB, forged(victim), end="hold")


async def invalid_gossip(node: JsNode, victim: Libp2pNetwork) -> None:
    await follow("strict", node, hub=victim, others=0)
    for number in range(8):
        await node.call("publish", topic="strict", data=f"bad{number:05x}")


async def subscriptions(node: JsNode, victim: Libp2pNetwork) -> None:
    await follow("t", node, hub=victim, others=0)  # from here on each has a message of its own
    await node.call("follow", topics=[f"{number:03}" + "t" * 200 for number in range(300)])


async def silent_streams(node: JsNode, victim: Libp2pNetwork) -> None:
    await node.call("open", peer=text_of(victim), count=3000)


async def streams_of_one_protocol(node: JsNode, victim: Libp2pNetwork) -> None:
    for _ in range(200):
        try:
            await node.say(text_of(victim), ECHO, b"hold this", end="hold")
        except JsError:  # one stream too many, or the end of the connection
            if not await node.call("connections"):
                return


CHARGED: dict[Callable[[JsNode, Libp2pNetwork], Awaitable[None]], str] = {
    junk_gossip: "malformed gossip",
    oversized_gossip: "malformed gossip: an RPC of 1114113 bytes",
    forged_gossip: "gossip with a wrong signature",
    invalid_gossip: "invalid gossip",
    subscriptions: "follows too many topics",
    silent_streams: "a flood of streams",
    streams_of_one_protocol: "a flood of streams",
}


@asynccontextmanager
async def victims() -> AsyncIterator[tuple[Libp2pNetwork, Callable[[str], Awaitable[None]]]]:
    """A host, and a check that it serves another one as before."""
    victim, friend = new_network(), new_network()
    inbox, strict = Inbox(victim), Inbox(victim, "strict")
    strict.verdict = Acceptance.REJECT
    async with started(victim, friend):
        await until(lambda: subscribers(friend) == 1, PATIENCE_S)

        async def serves(after: str) -> None:
            assert await ask(friend, victim.peer, after.encode()) == after.encode()
            await friend.publish("t", after.encode())
            await until(lambda: inbox.got[-1:] == [after.encode()], PATIENCE_S)
            assert victim.traffic.handler_errors == 0, after
            assert {info.score for info in victim.peers() if info.peer == friend.peer} == {0.0}

        yield victim, serves


async def test_what_a_hostile_js_node_does_costs_it_its_connection_and_nobody_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Scenarios 20 to 22, by another implementation; each time we say what we think of it."""
    caplog.set_level(logging.INFO, "primed")
    async with victims() as (victim, serves), js_process() as js:
        cut: set[bytes] = set()
        victim.on_peer(lambda peer, is_connected: None if is_connected else cut.add(peer))
        for attack, reason in CHARGED.items():
            node = await dialled(js, attack.__name__, victim)
            peer = peerid.from_text(node.peer)
            with suppress(JsError):  # it is cut off in the middle
                await attack(node, victim)
            await until(partial(cut.__contains__, peer), PATIENCE_S)
            assert score_of(victim, node) < 0, attack
            told = [m for m in caplog.messages if m.startswith(f"{peerid.short(peer)} loses")]
            assert any(reason in message for message in told), (attack, told)
            await serves(attack.__name__)


async def test_a_js_node_that_goes_on_is_banned_and_not_let_in_again() -> None:
    async with victims() as (victim, serves), js_process() as js:
        node = await dialled(js, "js", victim)
        rounds = 0
        while not victim.is_banned(peerid.from_text(node.peer)):
            assert (rounds := rounds + 1) < 10
            with suppress(JsError):
                await node.call("dial", address=victim.listen_addresses()[0])
                await forged_gossip(node, victim)
            await until(lambda: not is_connected(victim, node), PATIENCE_S)
        with suppress(JsError):  # Noise succeeds, then we hang up
            await node.call("dial", address=victim.listen_addresses()[0])
            await node.call("ping", peer=text_of(victim))
            pytest.fail("a banned peer was served")
        assert not is_connected(victim, node)
        await serves("after the ban")


def _on_library_protocols() -> list[tuple[str, bytes]]:
    rng = random.Random(2)
    kad = [
        Kad(type=Kad.FIND_NODE, key=b"\x01", closerPeers=[Kad.Peer(id=b"?", addrs=[b"\xff"])]),
        Kad(type=Kad.ADD_PROVIDER, key=b"k", providerPeers=[Kad.Peer(id=b"", addrs=[b"\x04"])]),
    ]
    junk = [*(framed(one.SerializeToString()) for one in kad), framed(rng.randbytes(2000))]
    junk += [b"\x80\x80\x80\x80\x08" + b"x" * 1000, rng.randbytes(100_000), b""]
    names = (KADEMLIA, "/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0", "/ipfs/ping/1.0.0")
    ours = ("/primed/bulk/1", "/primed/reach/1", "/libp2p/circuit/relay/0.2.0/stop")
    return [(name, chunk) for name in (*names, *ours) for chunk in junk]


async def test_garbage_cut_streams_and_a_killed_process_leave_nothing_behind() -> None:
    """What may also be an accident is not charged, or little."""
    async with victims() as (victim, serves), js_process() as js:
        await serves("before")
        files, tasks = _open_files(), trio.lowlevel.current_statistics().tasks_living
        for number, (protocol, chunk) in enumerate(_on_library_protocols()):
            if number % 6 == 0:  # a fresh identity for each protocol
                node = await dialled(js, protocol, victim)
            with suppress(JsError), trio.move_on_after(5):
                await node.say(text_of(victim), protocol, chunk, end=("close", "abort")[number % 2])
        await serves("garbage")
        node = await dialled(js, "cut", victim)
        for _ in range(5):
            await node.say(text_of(victim), ECHO, *[b"x" * 60_000] * 9, end="abort")
        # not "not connected": the DHT may dial it again before the end of the old one is told
        old = victim._running().swarm.get_connections(ID(peerid.from_text(node.peer)))
        assert old
        await node.call("cut", peer=text_of(victim))
        await until(lambda: all(connection.is_closed for connection in old), PATIENCE_S)
        assert score_of(victim, node) == 0
        await serves("cuts")
        node = await dialled(js, "killed", victim)
        await node.say(text_of(victim), ECHO, *[b"x" * 60_000] * 9, end="hold")
        js.process.kill()
        await until(lambda: len(victim.peers()) == 1, PATIENCE_S)
        assert score_of(victim, node) == 0
        await serves("a kill")
        await until(lambda: _open_files() <= files + 2, PATIENCE_S)  # pipes to the process
        await until(
            lambda: trio.lowlevel.current_statistics().tasks_living <= tasks + 2, PATIENCE_S
        )


def _open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))
