"""Gossip over real hosts: what hostile bytes, bursts, late joiners and bad validators do."""

from __future__ import annotations

import os
import time

import pytest
import trio
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils.varint import encode_uvarint

from primed.p2p import limits
from primed.p2p.errors import LocalError
from primed.p2p.gossip import _SIGNING_PREFIX
from primed.p2p.host import Libp2pNetwork
from primed.p2p.network import Acceptance

from .hosts import Inbox, ask, new_network, started, subscribers, until

pytestmark = pytest.mark.trio
MESHSUB = "/meshsub/1.2.0"


def framed(rpc: rpc_pb2.RPC) -> bytes:
    return _prefixed(rpc.SerializeToString())


def control(field: int, part: bytes, count: int) -> bytes:
    """An RPC of so many equal parts. Fields: ihave 1, iwant 2, graft 3, prune 4, idontwant 5."""
    body = (bytes([field << 3 | 2]) + encode_uvarint(len(part)) + part) * count
    return _prefixed(b"\x1a" + encode_uvarint(len(body)) + body)


def _prefixed(encoded: bytes) -> bytes:
    return encode_uvarint(len(encoded)) + encoded


def score_of(network: Libp2pNetwork, peer: bytes) -> float:
    return next((info.score for info in network.peers() if info.peer == peer), -100.0)


@pytest.mark.parametrize(
    "junk",
    [
        b"\x13" + b"\xff" * 19,  # twenty bytes that end an unguarded node: no protobuf
        b"\xff" * 30,  # a length that never ends
        encode_uvarint(limits.GOSSIP_RPC_BYTES + 1) + b"x" * 100,  # too long
        framed(
            rpc_pb2.RPC(subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid="t")] * 1000)
        ),
        *(control(field, b"", 540_000) for field in range(1, 6)),
        control(1, b"\x12\x00" * 8_000, 64),
        _prefixed(b"\x12\x02\x22\x00" * 270_000),
        _prefixed(b"\xfa\x01" + encode_uvarint(300_000) + bytes(300_000)),
    ],
    ids=[
        *("no protobuf", "endless length", "oversize", "subscriptions"),
        *("ihave", "iwant", "graft", "prune", "idontwant"),
        *("ids", "messages", "unknown field"),
    ],
)
async def test_trap_2_malformed_gossip_costs_the_sender_and_nobody_else(junk: bytes) -> None:
    victim, attacker, friend = new_network(), new_network(), new_network()
    inbox = Inbox(victim)
    async with started(victim, attacker, friend):
        stream = await attacker.open_stream(victim.peer, MESHSUB)
        await stream.write_all(junk)
        await until(lambda: victim.traffic.malformed_rpcs == 1)
        await until(lambda: subscribers(friend) == 1)
        await friend.publish("t", b"still here")
        await until(lambda: inbox.got == [b"still here"])
        assert score_of(victim, attacker.peer) < 0
        assert score_of(victim, friend.peer) == 0


async def test_a_new_member_of_the_mesh_is_offered_what_is_still_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Heartbeats offer the messages of three of them only: who was cut off for longer needs more."""
    monkeypatch.setattr(limits, "HEARTBEAT_S", 0.25)
    one, late = new_network(), new_network()
    Inbox(one)
    inbox = Inbox(late)
    async with started(one):
        await one.publish("t", b"before it came")
        await trio.sleep(1.5)
        assert not one._running().gossip.router.mcache.window("t")
        async with late.running(["/ip4/127.0.0.1/tcp/0"], list(one.listen_addresses())):
            await until(lambda: inbox.got == [b"before it came"])


async def test_a_truncated_rpc_is_only_a_stream_that_ended() -> None:
    victim, other = new_network(), new_network()
    async with started(victim, other):
        stream = await other.open_stream(victim.peer, MESHSUB)
        await stream.write_all(b"\x7f half")
        await stream.close()
        assert await ask(other, victim.peer, b"alive") == b"alive"
        assert victim.traffic.malformed_rpcs == victim.traffic.handler_errors == 0


async def test_trap_3_and_6_a_burst_arrives_whole_also_at_a_late_subscriber() -> None:
    """64 shards of 256 KiB while a peer joins the topic: every one arrives, framing intact."""
    source, early, late = new_network(), new_network(), new_network()
    first, second = Inbox(early), Inbox(late, "other")
    Inbox(source)
    shards = [os.urandom(16) * (256 * 1024 // 16) for _ in range(64)]
    async with started(source, early, late):
        await until(lambda: subscribers(source) == 1)
        async with trio.open_nursery() as nursery:
            for index, shard in enumerate(shards):
                await source.publish("t", shard)
                if index == 20:
                    second = Inbox(late)
            nursery.start_soon(until, lambda: len(first.got) == 64, 30.0)
            nursery.start_soon(until, lambda: len(second.got) == 64, 30.0)
        assert sorted(first.got) == sorted(shards) == sorted(second.got)
        assert early.traffic.malformed_rpcs == late.traffic.malformed_rpcs == 0
        assert early.traffic.gossip_received_bytes >= 64 * 256 * 1024
        assert source.traffic.gossip_sent_bytes >= 64 * 256 * 1024


async def test_a_message_of_one_mebibyte_is_delivered_and_a_larger_one_refused() -> None:
    one, other = new_network(), new_network()
    inbox = Inbox(other)
    async with started(one, other):
        await until(lambda: subscribers(one) == 1)
        await one.publish("t", b"m" * limits.GOSSIP_MESSAGE_BYTES)
        await until(lambda: len(inbox.got) == 1)
        with pytest.raises(LocalError):
            await one.publish("t", b"m" * (limits.GOSSIP_MESSAGE_BYTES + 1))


async def test_a_rejected_message_costs_score_then_the_connection_then_a_ban() -> None:
    """The ban also refuses new connections, in both directions."""
    strict, sender = new_network(), new_network()
    inbox = Inbox(strict)
    inbox.verdict = Acceptance.REJECT
    async with started(strict, sender):
        await until(lambda: subscribers(sender) == 1)
        await sender.publish("t", b"bad")
        await until(lambda: strict.traffic.gossip_rejected == 1)
        assert -6 < score_of(strict, sender.peer) < -4
        strict.penalise(sender.peer, 50, "in this test")
        await until(lambda: not strict.peers())
        assert strict.is_banned(sender.peer)
        await trio.sleep(2.5)  # the sender dials again meanwhile
        assert not strict.peers()
        assert inbox.got == []


async def test_an_ignored_message_is_dropped_without_harm_and_not_sent_on() -> None:
    hub, sender, leaf = new_network(), new_network(), new_network()
    at_hub, at_leaf = Inbox(hub), Inbox(leaf)
    at_hub.verdict = at_leaf.verdict = Acceptance.IGNORE
    async with started(hub, sender, leaf):
        await until(lambda: subscribers(sender) >= 1)
        await sender.publish("t", b"known already")
        await trio.sleep(0.5)
        assert at_hub.got == at_leaf.got == []
        assert score_of(hub, sender.peer) == 0


async def test_a_forged_origin_is_rejected_and_the_real_message_still_arrives() -> None:
    """A forger who guesses a sequence number must not use up the id of the real message."""
    victim, forger, author = new_network(), new_network(), new_network()
    inbox = Inbox(victim)
    async with started(victim, forger, author):
        await until(lambda: subscribers(author) == 1)
        gossip = author._running().gossip  # to know its next sequence number
        seqno = (gossip.counter + 1).to_bytes(8, "big")
        forged = rpc_pb2.Message(
            data=b"forged", topicIDs=["t"], from_id=author.peer, seqno=seqno, signature=b"x" * 64
        )
        stream = await forger.open_stream(victim.peer, MESHSUB)
        await stream.write_all(framed(rpc_pb2.RPC(publish=[forged])))
        await until(lambda: victim.traffic.gossip_rejected == 1)
        await author.publish("t", b"real")
        await until(lambda: inbox.got == [b"real"])
        assert score_of(victim, forger.peer) < 0


async def test_a_failing_validator_is_our_fault_and_ends_nothing() -> None:
    one, other = new_network(), new_network()

    def fail(sender: bytes, data: bytes) -> Acceptance:
        raise KeyError("a bug")

    one.subscribe("t", fail, lambda *_: None)
    async with started(one, other):
        await until(lambda: subscribers(other) == 1)
        await other.publish("t", b"?")
        await until(lambda: one.traffic.handler_errors == 1)
        assert score_of(one, other.peer) == 0
        assert await ask(other, one.peer, b"alive") == b"alive"


async def test_topics_can_be_left_and_joined_again() -> None:
    one, other = new_network(), new_network()
    inbox = Inbox(one)
    async with started(one, other):
        await until(lambda: subscribers(other) == 1)
        one.unsubscribe("t")
        await until(lambda: subscribers(other) == 0)
        again = Inbox(one)
        await until(lambda: subscribers(other) == 1)
        await other.publish("t", b"back")
        await until(lambda: again.got == [b"back"])
        assert inbox.got == []


async def test_trap_6_few_copies_of_a_shard_cross_the_wires() -> None:
    """In a full mesh each receiver needs one copy; sent on at once it would get four. The origin
    hears who has it, and does not send the rest again."""
    swarm = [new_network() for _ in range(5)]
    inboxes = [Inbox(network) for network in swarm]
    async with started(*swarm):
        await until(lambda: all(subscribers(network) == 4 for network in swarm))
        for _ in range(6):
            await swarm[1].publish("t", os.urandom(64 * 1024))
            await trio.sleep(0.3)
        await until(lambda: all(len(i.got) == 6 for i in inboxes if i is not inboxes[1]))
        await trio.sleep(limits.HOLD_OWN_S + limits.HOLD_RANDOM_S + 1)  # then nobody sends more
        sent = sum(network.traffic.gossip_sent_bytes for network in swarm)
        assert sent < 1.5 * 6 * 4 * 64 * 1024
        assert swarm[1].traffic.gossip_sent_bytes < 2 * 6 * 64 * 1024


@pytest.mark.parametrize("surplus", ["key", "unknown field"])
async def test_what_a_message_carries_unsigned_or_unknown_is_short(surplus: str) -> None:
    """A key as other libraries send it does no harm; a mebibyte beside two hundred bytes of data,
    which no count of payloads would notice, is neither kept nor sent on."""
    victim, attacker, friend = new_network(), new_network(), new_network()
    at_victim, at_friend = Inbox(victim), Inbox(friend)
    async with started(victim, attacker, friend):
        await until(lambda: subscribers(victim) == 1)
        stream = await attacker.open_stream(victim.peer, MESHSUB)
        for size in (36, 1_000_000):
            message = message_of(attacker, surplus, size)
            await stream.write_all(framed(rpc_pb2.RPC(publish=[message])))
            await until(lambda: len(at_victim.got) + victim.traffic.gossip_rejected >= 1)
        await until(lambda: victim.traffic.gossip_rejected == 1)
        await until(lambda: len(at_friend.got) == 1)
        assert len(at_victim.got) == 1
        assert score_of(victim, attacker.peer) < 0 == score_of(victim, friend.peer)
        cache = victim._running().gossip.router._cache
        assert cache._bytes == sum(kept.ByteSize() for kept in cache.msgs.values()) < 1000


def message_of(origin: Libp2pNetwork, surplus: str, size: int) -> rpc_pb2.Message:
    gossip = origin._running().gossip
    message = rpc_pb2.Message(
        data=b"d" * 200, topicIDs=["t"], from_id=origin.peer, seqno=gossip._next_seqno()
    )
    if surplus == "unknown field":
        message.MergeFromString(b"\xfa\x01" + encode_uvarint(size) + bytes(size))  # field 31
    message.signature = gossip._sign(_SIGNING_PREFIX + message.SerializeToString())
    if surplus == "key":
        message.key = bytes(size)
    return message


async def test_a_clock_that_is_set_back_makes_no_honest_peer_early_or_a_flood(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Grafts a minute after a prune and one IHAVE a heartbeat, when it was an hour later before."""
    one, other = new_network(), new_network()
    Inbox(one)
    Inbox(other)
    async with started(one, other):
        await until(lambda: subscribers(one) == 1)
        router, peer = one._running().gossip.router, ID(other.peer)
        router.mesh["t"].discard(peer)
        router._add_back_off(peer, "t", False)
        ihave = rpc_pb2.ControlIHave(topicID="t", messageIDs=[b"id".hex().encode()])
        offer = rpc_pb2.RPC(control=rpc_pb2.ControlMessage(ihave=[ihave]))
        await router.handle_rpc(offer, peer)
        wall, monotonic = time.time, trio.current_time
        monkeypatch.setattr(time, "time", lambda: wall() - 3600)
        for _ in range(20):
            await router.handle_rpc(offer, peer)
            await router._beat()
        monkeypatch.setattr(trio, "current_time", lambda: monotonic() + 61)
        await router.handle_graft(rpc_pb2.ControlGraft(topicID="t"), peer)
        monkeypatch.undo()
        assert peer in router.mesh["t"]
        assert score_of(one, other.peer) == 0
