"""Sizes that a peer names or sends without being asked: lengths, ids, lists (scenario 21).

Everything is measured by what the victim keeps: its resident memory, in this process.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

import pytest
import trio
from libp2p.abc import INetStream
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.identity.identify_push.identify_push import ID_PUSH
from libp2p.kad_dht.common import PROTOCOL_ID as KADEMLIA
from libp2p.kad_dht.pb.kademlia_pb2 import Message as Kad
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils.varint import (
    encode_uvarint,
    encode_varint_prefixed,
    read_varint_prefixed_bytes_limited,
)

from primed.p2p import bulk, limits, reach, relay
from primed.p2p.errors import RemoteError
from primed.p2p.gossip import _SIGNING_PREFIX
from primed.p2p.host import Libp2pNetwork
from primed.p2p.network import Stream
from primed.protocols.framing import Framed
from primed.protocols.limits import FRAME_MAX_BYTES

from ..net.hosts import ECHO, Inbox, ask, new_network, started, until
from .test_floods import MESHSUB, control, framed, gossip_of, is_cut_off, resident_bytes

pytestmark = pytest.mark.trio
MIB = 1 << 20
FRAMES = "/test/frames/1"
OF_THE_LIBRARY = ("/ipfs/kad/1.0.0", "/ipfs/id/push/1.0.0", MESHSUB, relay.HOP, relay.STOP)
OURS = (bulk.PROTOCOL, reach.PROTOCOL, FRAMES)


def first_bytes(protocol: str) -> bytes:
    """A length of 2 GiB, as the protocol writes lengths."""
    return (1 << 31).to_bytes(4, "big") if protocol in OURS else encode_uvarint(1 << 31)


async def serve_frames(stream: Stream) -> None:
    """As all protocols of `primed.protocols` read."""
    await Framed(stream).read(FRAME_MAX_BYTES, first_byte_s=limits.SILENT_S)


@pytest.mark.parametrize("protocol", [*OF_THE_LIBRARY, *OURS])
async def test_scenario_21_a_length_of_2_gib_is_believed_on_no_protocol(protocol: str) -> None:
    """What follows it is neither kept nor read for long."""
    victim, attacker = new_network(offers_relay=True), new_network()
    victim.handle(FRAMES, serve_frames)
    async with started(victim, attacker):
        before = resident_bytes()
        stream = await attacker.open_stream(victim.peer, protocol)
        sent = 0
        with suppress(RemoteError), trio.fail_after(10):
            await stream.write_all(first_bytes(protocol))
            while sent < 64 * MIB:
                await stream.write_all(bytes(65_000))
                sent += 65_000
        assert sent < 4 * MIB
        assert resident_bytes() - before < 8 * MIB
        if not is_cut_off(victim, attacker):
            assert await ask(attacker, victim.peer, b"alive") == b"alive"
        assert victim.traffic.handler_errors == 0


def long_offers() -> Iterator[rpc_pb2.RPC]:
    """Ids in hex, as IHAVE carries them."""
    rng = random.Random(1)
    while True:
        yield control(
            ihave=[rpc_pb2.ControlIHave(topicID="t", messageIDs=[_long(rng).hex().encode()])]
        )


def long_origins() -> Iterator[rpc_pb2.RPC]:
    """A message's id is its origin and its number; both are what the sender says. Of a topic that
    the victim does not follow, so that nobody looks at the signature."""
    rng = random.Random(2)
    while True:
        message = rpc_pb2.Message(topicIDs=["u"], from_id=_long(rng), seqno=bytes(8), data=b"x")
        yield rpc_pb2.RPC(publish=[message])


def long_refusals() -> Iterator[rpc_pb2.RPC]:
    rng = random.Random(3)
    while True:
        yield control(idontwant=[rpc_pb2.ControlIDontWant(messageIDs=[_long(rng)])])


def long_topics() -> Iterator[rpc_pb2.RPC]:
    rng = random.Random(4)
    while True:
        name = _long(rng).hex()
        graft, prune = rpc_pb2.ControlGraft(topicID=name), rpc_pb2.ControlPrune(topicID=name)
        rpc = control(graft=[graft], prune=[prune])
        rpc.subscriptions.append(rpc_pb2.RPC.SubOpts(subscribe=True, topicid=name))
        yield rpc


def _long(rng: random.Random) -> bytes:
    return rng.randbytes(200_000)


@pytest.mark.parametrize("flood", [long_offers, long_origins, long_refusals, long_topics])
async def test_scenario_22_long_ids_and_names_in_gossip_are_not_kept(
    flood: Callable[[], Iterator[rpc_pb2.RPC]],
) -> None:
    """Few of them, so that no count is exceeded; 60 MB if they were kept."""
    victim, attacker, friend = new_network(), new_network(), new_network()
    Inbox(victim)
    async with started(victim, attacker, friend):
        before = resident_bytes()
        stream = await attacker.open_stream(victim.peer, MESHSUB)
        rpcs = flood()
        with suppress(RemoteError), trio.fail_after(30):
            for _ in range(300):
                await stream.write_all(framed(next(rpcs)))
                if is_cut_off(victim, attacker):
                    break
        await trio.sleep(0.2)
        assert resident_bytes() - before < 12 * MIB
        router = gossip_of(victim).router
        held = set(router.flow.holders._had.get(ID(attacker.peer), ()))
        assert all(len(i) <= limits.GOSSIP_ID_BYTES for i in [*held, *router._offers._offers])
        assert await ask(friend, victim.peer, b"alive") == b"alive"
        assert victim.traffic.handler_errors == 0


@pytest.mark.parametrize("too_long_bytes", [0, 1])
async def test_a_signed_message_of_one_byte_more_than_a_mebibyte_is_refused_and_paid_for(
    too_long_bytes: int,
) -> None:
    """The RPC is short enough, and the signature right: only the message itself is too long."""
    victim, attacker = new_network(), new_network()
    inbox = Inbox(victim)
    async with started(victim, attacker):
        message = rpc_pb2.Message(
            data=bytes(limits.GOSSIP_MESSAGE_BYTES + too_long_bytes),
            topicIDs=["t"],
            from_id=attacker.peer,
            seqno=(1).to_bytes(8, "big"),
        )
        signed = _SIGNING_PREFIX + message.SerializeToString()
        message.signature = gossip_of(attacker)._sign(signed)
        stream = await attacker.open_stream(victim.peer, MESHSUB)
        await stream.write_all(framed(rpc_pb2.RPC(publish=[message])))
        await until(lambda: bool(inbox.got or victim.traffic.gossip_rejected))
        assert len(inbox.got) == 1 - too_long_bytes
        assert victim.traffic.gossip_rejected == too_long_bytes
        assert (victim.peers()[0].score < 0) == bool(too_long_bytes)
        assert victim.traffic.malformed_rpcs == 0


Answer = Callable[[INetStream], Awaitable[None]]


def talkative() -> bytes:
    """Far more than anybody speaks, or listens at, within what the library reads (1 MiB)."""
    return Identify(
        protocols=[f"/{n}" for n in range(100_000)],
        listen_addrs=[bytes([4, 1, 2, n // 250, n % 250, 6, 0, 9]) for n in range(900)],
    ).SerializeToString()


async def tell_much(stream: INetStream) -> None:
    await stream.write(encode_varint_prefixed(talkative()))
    await stream.close()


async def tell_for_ever(stream: INetStream) -> None:
    """A wrong length first: then the library reads on, for as long as bytes come."""
    await stream.write(encode_uvarint(1 << 40))
    while True:
        await stream.write(bytes(65_000))


@pytest.mark.parametrize("answer", [tell_much, tell_for_ever])
async def test_scenario_21_what_a_peer_says_of_itself_is_bounded(answer: Answer) -> None:
    """The library keeps what identify says of a thousand peers."""
    victim = new_network()
    attackers = [new_network() for _ in range(3)]
    async with started(victim):
        before = resident_bytes()
        for attacker in attackers:
            await _join_and(attacker, victim, answer)
        for attacker in attackers:
            assert (
                len(victim._running().host.protocols_of(attacker.peer)) <= limits.IDENTIFY_PROTOCOLS
            )
            addresses = victim._running().discovery.addresses_of(attacker.peer)
            assert len(addresses) <= limits.IDENTIFY_ADDRESSES
        assert resident_bytes() - before < 16 * MIB


async def _join_and(attacker: Libp2pNetwork, victim: Libp2pNetwork, answer: Answer) -> None:
    async with attacker.running(["/ip4/127.0.0.1/tcp/0"], []):
        attacker._running().host.set_stream_handler(IDENTIFY, answer)
        await attacker.connect(victim.listen_addresses()[0])
        await trio.sleep(0.3)
        if answer is tell_much:
            stream = await attacker.open_stream(victim.peer, ID_PUSH)
            with suppress(RemoteError):
                await stream.write_all(encode_varint_prefixed(talkative()))
                await stream.close()
        await trio.sleep(0.5)
        await until(lambda: ID(attacker.peer) in victim._running().swarm.connections)


def crowd(query: Kad) -> Kad:
    """Peers that nobody ever heard of, more than the library remembers."""
    rng = random.Random(query.key)
    ids = (b"\x00\x24\x08\x01\x12\x20" + rng.randbytes(32) for _ in range(1000))
    there = bytes([4, 9, 9, 9, 9, 6, 1, 1])
    return Kad(type=query.type, closerPeers=[Kad.Peer(id=i, addrs=[there]) for i in ids])


def places(query: Kad) -> Kad:
    """One peer at a hundred thousand addresses: comparing each with each takes minutes."""
    addrs = [bytes([4, 9, n >> 16, n >> 8 & 255, n & 255, 6, 1, 1]) for n in range(100_000)]
    peer = b"\x00\x24\x08\x01\x12\x20" + bytes(32)
    return Kad(type=query.type, closerPeers=[Kad.Peer(id=peer, addrs=addrs)])


@pytest.mark.parametrize("lie", [crowd, places])
async def test_scenario_27_answers_in_the_dht_crowd_nobody_out(lie: Callable[[Kad], Kad]) -> None:
    victim, attacker, friend = new_network(), new_network(), new_network()

    async def answer(stream: INetStream) -> None:
        query = Kad.FromString(await read_varint_prefixed_bytes_limited(stream, 4 * MIB))
        await stream.write(encode_varint_prefixed(lie(query).SerializeToString()))

    async with started(victim, attacker, friend):
        attacker._running().host.set_stream_handler(KADEMLIA, answer)
        await until(lambda: victim._running().discovery.dht.get_routing_table_size() == 2)
        began = trio.current_time()
        for _ in range(2):
            await victim._running().discovery.refresh()
            await victim.find_providers(b"k" * 32, 3)
        assert trio.current_time() - began < 20
        host = victim._running().host
        store = host.get_peerstore()
        kept = store.peers_with_addrs()
        assert len(kept) <= limits.PEERS_KNOWN
        assert max(len(store.addrs(peer_id)) for peer_id in kept) <= limits.IDENTIFY_ADDRESSES
        assert ECHO in host.protocols_of(friend.peer)  # still known
        assert store.privkey(host.get_id())
        assert await ask(friend, victim.peer, b"alive") == b"alive"
        assert victim.traffic.handler_errors == 0
        late = new_network()
        async with late.running(["/ip4/127.0.0.1/tcp/0"], list(victim.listen_addresses())):
            await until(lambda: ECHO in host.protocols_of(late.peer))
