"""Floods over a connection that is in order: streams, frames, and every kind of gossip control."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import pytest
import trio
from libp2p.kad_dht.pb.kademlia_pb2 import Message as Kad
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.pubsub.pb import rpc_pb2
from libp2p.stream_muxer.yamux import yamux
from libp2p.utils.varint import encode_uvarint
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from primed.p2p import limits
from primed.p2p.errors import RemoteError
from primed.p2p.gossip import _SIGNING_PREFIX, Gossip
from primed.p2p.host import Libp2pNetwork
from primed.p2p.network import Acceptance
from primed.p2p.streams import STREAM_ERRORS

from ..net.hosts import ECHO, PROFILE, Inbox, ask, new_network, started, subscribers, until

pytestmark = pytest.mark.trio
MESHSUB = "/meshsub/1.2.0"


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def gossip_of(network: Libp2pNetwork) -> Gossip:
    return network._running().gossip


def is_cut_off(victim: Libp2pNetwork, attacker: Libp2pNetwork) -> bool:
    """Disconnected, or on the way there, for what it did."""
    infos = {info.peer: info for info in victim.peers()}
    return attacker.peer not in infos or infos[attacker.peer].score <= limits.SCORE_DISCONNECT


async def open_streams(attacker: Libp2pNetwork, count: int) -> None:
    """SYN frames as fast as they go, without a word on any of the streams."""
    muxed = attacker._running().swarm.get_connections()[0].muxed_conn
    assert isinstance(muxed, yamux.Yamux)
    for number in range(count):
        stream_id = 2 * number + (10_001 if muxed.is_initiator else 10_002)
        syn = struct.pack(
            yamux.YAMUX_HEADER_FORMAT, 0, yamux.TYPE_WINDOW_UPDATE, yamux.FLAG_SYN, stream_id, 0
        )
        with suppress(*STREAM_ERRORS):
            await muxed._write_frame(syn)
        if muxed.event_shutting_down.is_set():
            return


async def test_scenario_20_ten_thousand_streams_are_reset_and_the_connection_with_them() -> None:
    victim, attacker, friend = new_network(), new_network(), new_network()
    async with started(victim, attacker, friend):
        before = resident_bytes()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_streams, attacker, 10_000)
            for _ in range(10):
                with trio.fail_after(2):
                    assert await ask(friend, victim.peer, b"alive") == b"alive"
            await until(lambda: is_cut_off(victim, attacker))
        refused = victim.traffic.refused_streams
        assert limits.STREAM_FLOOD_BURST <= refused <= 2 * limits.STREAM_FLOOD_BURST
        assert resident_bytes() - before < 32 * 2**20
        assert victim.traffic.handler_errors == 0


async def test_sixty_four_streams_of_a_connection_and_not_one_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "NEGOTIATE_S", 1)
    victim, attacker = new_network(), new_network()
    async with started(victim, attacker):
        await trio.sleep(0.5)  # identify is over
        await open_streams(attacker, limits.STREAMS_PER_CONNECTION + 20)
        await until(lambda: victim.traffic.refused_streams > 0)
        await trio.sleep(0.2)
        assert 15 <= victim.traffic.refused_streams <= 30
        assert not is_cut_off(victim, attacker)
        await trio.sleep(limits.NEGOTIATE_S)  # the silent ones are gone by now
        assert await ask(attacker, victim.peer, b"again") == b"again"


async def test_frames_that_cost_us_more_than_the_sender_are_read_at_their_pace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Window updates for no stream: no answer, so nothing else would slow the sender down."""
    monkeypatch.setattr(limits, "FRAMES_BURST", 500.0)
    monkeypatch.setattr(limits, "FRAMES_PER_S", 100.0)
    victim, attacker, friend = new_network(), new_network(), new_network()
    async with started(victim, attacker, friend):
        muxed = attacker._running().swarm.get_connections()[0].muxed_conn
        assert isinstance(muxed, yamux.Yamux)
        update = struct.pack(yamux.YAMUX_HEADER_FORMAT, 0, yamux.TYPE_WINDOW_UPDATE, 0, 99, 1)
        began = trio.current_time()
        await muxed._write_frame(update * 700)
        slow = await ask(attacker, victim.peer, b"behind them")
        assert slow == b"behind them" and trio.current_time() - began > 1.0
        began = trio.current_time()
        assert await ask(friend, victim.peer, b"alive") == b"alive"
        assert trio.current_time() - began < 0.5


def framed(rpc: rpc_pb2.RPC) -> bytes:
    encoded = rpc.SerializeToString()
    return encode_uvarint(len(encoded)) + encoded


@pytest.mark.parametrize("kind", ["ignored", "forged"])
async def test_thousands_of_messages_in_one_rpc_do_not_hold_the_loop(kind: str) -> None:
    """Each is as dear as one that comes alone, and after the ban the others are not looked at."""
    victim, attacker, friend = new_network(), new_network(), new_network()
    victim.subscribe("t", lambda *_: Acceptance.IGNORE, lambda *_: None)
    async with started(victim, attacker, friend):
        gossip, messages = gossip_of(attacker), []
        for number in range(6000):
            seqno = (10**15 + number).to_bytes(8, "big")
            message = rpc_pb2.Message(data=b"x", topicIDs=["t"], from_id=attacker.peer, seqno=seqno)
            signed = _SIGNING_PREFIX + message.SerializeToString()
            message.signature = gossip._sign(signed) if kind == "ignored" else bytes(64)
            messages.append(message)
        stream = await attacker.open_stream(victim.peer, MESHSUB)
        waits = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.write_all, framed(rpc_pb2.RPC(publish=messages)))
            for _ in range(60):
                began = trio.current_time()
                assert await ask(friend, victim.peer, b"alive") == b"alive"
                waits.append(trio.current_time() - began)
                await trio.sleep(0.02)
            nursery.cancel_scope.cancel()
        assert max(waits) < 0.5
        if kind == "forged":
            assert is_cut_off(victim, attacker)
            assert victim.traffic.gossip_rejected < 100
        else:
            assert victim.traffic.gossip_received_bytes > limits.GOSSIP_RPCS_BURST / 2


async def test_who_hears_no_gossip_and_leaves_is_not_remembered_by_what_it_said() -> None:
    victim, rng = new_network(), random.Random(1)
    Inbox(victim)
    async with started(victim):
        attacker = new_network()
        async with attacker.running(["/ip4/127.0.0.1/tcp/0"], victim.listen_addresses()):
            handlers = attacker._running().host.get_mux().handlers
            for name in [name for name in handlers if "meshsub" in str(name)]:
                del handlers[name]
            await until(lambda: bool(attacker.peers()))
            stream = await attacker.open_stream(victim.peer, MESHSUB)
            ids = [rng.randbytes(64) for _ in range(1024)]
            await stream.write_all(
                framed(control(idontwant=[rpc_pb2.ControlIDontWant(messageIDs=ids)]))
            )
            had = gossip_of(victim).router.flow.holders._had
            await until(lambda: len(had) == 1)
        await until(lambda: not had)


def control(**parts: object) -> rpc_pb2.RPC:
    return rpc_pb2.RPC(control=rpc_pb2.ControlMessage(**parts))  # type: ignore[arg-type]


def subscriptions() -> Iterator[rpc_pb2.RPC]:
    """A million topics, sixty-four at a time."""
    for start in range(0, 1_000_000, 64):
        topics = (f"{start + n:07}" + "t" * 200 for n in range(64))
        yield rpc_pb2.RPC(
            subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid=t) for t in topics]
        )


def ihaves() -> Iterator[rpc_pb2.RPC]:
    rng = random.Random(1)
    while True:
        ids = [rng.randbytes(46).hex().encode() for _ in range(1000)]
        yield control(ihave=[rpc_pb2.ControlIHave(topicID="t", messageIDs=ids)])


def iwants() -> Iterator[rpc_pb2.RPC]:
    rng = random.Random(2)
    while True:
        ids = [rng.randbytes(46).hex().encode() for _ in range(1000)]
        yield control(iwant=[rpc_pb2.ControlIWant(messageIDs=ids)])


def grafts() -> Iterator[rpc_pb2.RPC]:
    """Grafting and leaving in turn, which a peer may not do within the back-off."""
    while True:
        yield control(
            graft=[rpc_pb2.ControlGraft(topicID="t")],
            prune=[rpc_pb2.ControlPrune(topicID="t", backoff=1)],
        )


@pytest.mark.parametrize("flood", [subscriptions, ihaves, iwants, grafts])
async def test_scenario_22_floods_of_gossip_control_cost_the_sender_its_connection(
    flood: Callable[[], Iterator[rpc_pb2.RPC]],
) -> None:
    victim, attacker, friend = new_network(), new_network(), new_network()
    inbox, _ = Inbox(victim), Inbox(friend)
    async with started(victim, attacker, friend):
        await until(lambda: subscribers(friend) == 1)
        before = resident_bytes()
        stream = await attacker.open_stream(victim.peer, MESHSUB)
        sent = 0
        with suppress(RemoteError), trio.fail_after(20):
            for rpc in flood():
                await stream.write_all(framed(rpc))
                sent += 1
                if is_cut_off(victim, attacker):
                    break
        await until(lambda: is_cut_off(victim, attacker))
        assert sent < 5000
        assert resident_bytes() - before < 24 * 2**20
        gossip = gossip_of(victim)
        assert len(gossip.peer_topics) <= limits.GOSSIP_TOPICS_PER_PEER + 1
        await friend.publish("t", b"still here")
        await until(lambda: inbox.got == [b"still here"])
        await until(lambda: set(gossip.peer_topics) <= {"t"})  # nothing is left of the attacker
        assert victim.traffic.handler_errors == 0


async def test_scenario_22_topics_that_come_and_go_are_forgotten() -> None:
    """Never more than one at a time, so no count of topics would notice."""
    victim, attacker = new_network(), new_network()
    Inbox(victim)
    async with started(victim, attacker):
        stream = await attacker.open_stream(victim.peer, MESHSUB)
        for number in range(500):
            rpc = rpc_pb2.RPC()
            for wanted in (True, False):
                rpc.subscriptions.append(
                    rpc_pb2.RPC.SubOpts(subscribe=wanted, topicid=f"topic {number}")
                )
            await stream.write_all(framed(rpc))
        end = rpc_pb2.RPC(subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid="end")])
        await stream.write_all(framed(end))
        await until(lambda: "end" in gossip_of(victim).peer_topics)
        assert len(gossip_of(victim).peer_topics) <= 2


async def test_scenario_22_a_message_is_sent_to_one_peer_a_few_times_however_often_it_asks() -> (
    None
):
    """Else a small request brings a megabyte each time: by IWANT, and by subscribing anew."""
    victim, attacker = new_network(), new_network()
    Inbox(victim)
    size = 100_000
    async with started(victim, attacker):
        stream = await attacker.open_stream(victim.peer, MESHSUB)
        await victim.publish("t", b"m" * size)
        [message_id] = gossip_of(victim).router.mcache.msgs
        before = victim.traffic.gossip_sent_bytes
        for _ in range(20):
            rpc = control(iwant=[rpc_pb2.ControlIWant(messageIDs=[message_id])])
            for wanted in (True, False):
                rpc.subscriptions.append(rpc_pb2.RPC.SubOpts(subscribe=wanted, topicid="t"))
            await stream.write_all(framed(rpc))
        await trio.sleep(1.0)
        sent = victim.traffic.gossip_sent_bytes - before
        assert size <= sent <= limits.GOSSIP_ANSWERS * size


async def test_scenario_27_peers_named_in_a_prune_are_not_dialled() -> None:
    victim = new_network(profile=replace(PROFILE, target_peers=1))  # looks for no others itself
    attacker, stranger = new_network(), new_network()
    Inbox(victim)
    async with started(victim, attacker), stranger.running(["/ip4/127.0.0.1/tcp/0"], []):
        store = victim._running().host.get_peerstore()
        address = stranger.listen_addresses()[0].partition("/p2p/")[0]
        store.add_addrs(ID(stranger.peer), [Multiaddr(address)], 600)
        named = rpc_pb2.PeerInfo(peerID=stranger.peer)
        prune = rpc_pb2.ControlPrune(topicID="t", backoff=60, peers=[named])
        stream = await attacker.open_stream(victim.peer, MESHSUB)
        await stream.write_all(framed(control(prune=[prune])))
        await trio.sleep(0.3)  # before the DHT looks around
        assert stranger.peers() == []


async def test_scenario_4_gossip_that_begins_and_does_not_go_on_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Silence between two messages is no fault; a byte now and then is."""
    monkeypatch.setattr(limits, "SILENT_S", 0.5)
    victim, attacker, friend = new_network(), new_network(), new_network()
    Inbox(victim)
    async with started(victim, attacker, friend):
        stream = await attacker.open_stream(victim.peer, MESHSUB)
        with pytest.raises(RemoteError), trio.fail_after(5):
            while True:
                await stream.write_all(b"\x7f")  # the length, and then a byte now and then
                await trio.sleep(0.1)
        scores = {info.peer: info.score for info in victim.peers()}
        assert -limits.SCORE_DISCONNECT > -scores[attacker.peer] > 0
        assert scores[friend.peer] == 0


async def test_a_silent_dht_query_is_ended_so_that_others_are_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The library serves twelve at a time and waits for ever for their bytes."""
    monkeypatch.setattr(limits, "EXCHANGE_S", 1.0)
    victim, friend = new_network(), new_network()
    attackers = [new_network() for _ in range(9)]
    async with started(victim, friend, *attackers):
        for attacker in attackers:
            for _ in range(limits.STREAMS_PER_PROTOCOL_AND_PEER):
                with suppress(RemoteError):  # its own queries count too
                    await attacker.open_stream(victim.peer, "/ipfs/kad/1.0.0")
        await trio.sleep(1.5)
        query = Kad(type=Kad.FIND_NODE, key=friend.peer).SerializeToString()
        stream = await friend.open_stream(victim.peer, "/ipfs/kad/1.0.0")
        await stream.write_all(encode_uvarint(len(query)) + query)
        with trio.fail_after(2):
            assert await stream.read_some(100)


async def test_silent_dht_queries_give_way_to_others() -> None:
    """Nine peers could take all places for as long as an exchange may take."""
    victim, friend = new_network(), new_network()
    attackers = [new_network() for _ in range(9)]
    async with started(victim, friend, *attackers):
        for attacker in attackers:
            for _ in range(limits.STREAMS_PER_PROTOCOL_AND_PEER):
                with suppress(RemoteError):  # its own queries count too
                    await attacker.open_stream(victim.peer, "/ipfs/kad/1.0.0")
        await trio.sleep(limits.DHT_SLOW_S)
        query = Kad(type=Kad.FIND_NODE, key=friend.peer).SerializeToString()
        for _ in range(20):
            stream = await friend.open_stream(victim.peer, "/ipfs/kad/1.0.0")
            await stream.write_all(encode_uvarint(len(query)) + query)
            with trio.fail_after(2):
                assert await stream.read_some(100)
            await stream.close()


async def test_what_others_store_in_our_dht_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PROVIDED_KEYS", 50)
    victim, attacker = new_network(), new_network()
    async with started(victim, attacker):
        await victim.provide(b"ours".ljust(32))
        store = victim._running().discovery.dht.provider_store
        many = [Multiaddr(f"/ip4/1.2.3.{n}/tcp/1") for n in range(100)]
        for number in range(500):
            store.add_provider(b"%032d" % number, PeerInfo(ID(attacker.peer), many))
        assert len(store.providers) <= 50
        assert b"ours".ljust(32) in store.providers
        [told] = store.get_providers(b"%032d" % 499)
        assert len(told.addrs) <= limits.ADDRESSES_PER_PEER

        value = Kad(type=Kad.PUT_VALUE, key=b"/pk/k")
        value.record.key, value.record.value = b"/pk/k", b"v" * 1000
        body = value.SerializeToString()
        stream = await attacker.open_stream(victim.peer, "/ipfs/kad/1.0.0")
        await stream.write_all(encode_uvarint(len(body)) + body)
        await trio.sleep(0.3)
        assert victim._running().discovery.dht.get_value_store_size() == 0
        assert await ask(attacker, victim.peer, b"alive") == b"alive"
        assert ECHO in victim._running().host.protocols_of(attacker.peer)
