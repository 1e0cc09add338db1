"""Publish and subscribe: the library's Pubsub with its reading, judging and writing replaced.

Every message is signed by its origin (libp2p StrictSign). That costs an Ed25519 signature and a
check a message, and buys ids (origin + sequence number) that nobody can use up for another peer:
with unsigned ids one forged message hides a real one from everybody. Judged at once, in order, in
the task that read it; the peer that forwarded a message answers for it.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import trio
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from google.protobuf.message import DecodeError
from libp2p.abc import INetStream
from libp2p.host.exceptions import HostException
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.rpc_queue import RpcQueue
from libp2p.utils.varint import encode_uvarint

from primed.p2p import limits, peerid
from primed.p2p.buckets import TokenBucket
from primed.p2p.errors import HIGH, LOW, MID
from primed.p2p.guard import GuardedHost
from primed.p2p.network import Acceptance, Traffic
from primed.p2p.outbox import Letter, Outbox
from primed.p2p.router import Router
from primed.p2p.streams import STREAM_ERRORS, reset_quietly
from primed.p2p.topics import Topics
from primed.p2p.uploads import Uploads

_log = logging.getLogger(__name__)
_SIGNING_PREFIX = b"libp2p-pubsub:"


class MalformedGossip(Exception):
    """Bytes on a gossip stream that are no RPC."""


class SlowGossip(Exception):
    """An RPC that began and does not go on."""


class SeenIds:
    """The last message ids. Stands in for the library's cache, which is unbounded and a thread."""

    def __init__(self) -> None:
        self._ids: OrderedDict[bytes, None] = OrderedDict()

    def has(self, key: bytes) -> bool:
        return key in self._ids

    def add(self, key: bytes) -> bool:
        is_new = key not in self._ids
        self._ids[key] = None
        if len(self._ids) > limits.GOSSIP_SEEN_IDS:
            self._ids.popitem(last=False)
        return is_new


class Gossip(Pubsub):
    router: Router

    def __init__(
        self,
        host: GuardedHost,
        router: Router,
        sign: Callable[[bytes], bytes],
        topics: Topics,
        traffic: Traffic,
        uploads: Uploads,
        penalise: Callable[[bytes, int, str], None],
    ) -> None:
        super().__init__(
            host,
            router,
            strict_signing=False,  # signed and checked here, with OpenSSL
            max_subscriptions_per_peer=limits.GOSSIP_TOPICS_PER_PEER,
            max_inbound_rpc_size=limits.GOSSIP_RPC_BYTES,
        )
        self.seen_messages.stop()
        self.seen_messages = SeenIds()  # type: ignore[assignment]
        self.counter = time.time_ns()  # never behind the sequence numbers of an earlier life
        self._sign = sign
        self._topics = topics
        self._penalise = penalise
        self._traffic = traffic
        self._uploads = uploads
        self._buckets: OrderedDict[ID, TokenBucket] = OrderedDict()
        self._turn = trio.Lock()  # to take from the upload allowance

    # --- our own topics and messages

    async def follow_topics(self) -> None:
        """Join and leave, whenever the topics change."""
        while True:
            self._topics.changed = trio.Event()
            wanted = self._topics.names()
            for topic in self.topic_ids - wanted:
                await self.unsubscribe(topic)
            for topic in wanted - self.topic_ids:
                await self.subscribe(topic)
            await self._topics.changed.wait()

    async def send(self, topic: str, data: bytes) -> None:
        message = rpc_pb2.Message(
            data=data, topicIDs=[topic], from_id=self.my_id.to_bytes(), seqno=self._next_seqno()
        )
        message.signature = self._sign(_SIGNING_PREFIX + message.SerializeToString())
        self.seen_messages.add(message.from_id + message.seqno)
        await self.router.publish(self.my_id, message)

    # --- reading

    async def stream_handler(self, stream: INetStream) -> None:
        peer_id = stream.muxed_conn.peer_id
        try:
            await self.continuously_read_stream(stream)
        except (MalformedGossip, DecodeError) as error:
            self._traffic.malformed_rpcs += 1
            self._penalise(peer_id.to_bytes(), MID, f"malformed gossip: {error}")
        except SlowGossip:
            self._penalise(peer_id.to_bytes(), LOW, "slow gossip")
        except STREAM_ERRORS as error:
            _log.debug("gossip stream from %s ended: %s", peer_id, error)
        finally:
            if peer_id not in self.peers:  # it never let us in, or has left
                self.router.flow.holders.forget(peer_id)
            await reset_quietly(stream)

    async def continuously_read_stream(self, stream: INetStream) -> None:
        peer_id = stream.muxed_conn.peer_id
        reader = _RpcReader(stream)
        while self.manager.is_running:
            rpc = rpc_pb2.RPC()
            rpc.ParseFromString(encoded := await reader.next())
            _check_parts(rpc, len(encoded))  # before it waits: each small part takes memory
            await self._pace(peer_id, _cost(rpc))
            for number, message in enumerate(rpc.publish):
                if number:
                    await self._pace(peer_id, 1.0)
                    await trio.lowlevel.checkpoint()  # thousands fit into one RPC
                    if stream.muxed_conn.is_closed:
                        return  # for what came before
                await self.push_msg(peer_id, message)
            for subscription in rpc.subscriptions:
                if len(subscription.topicid) <= limits.GOSSIP_TOPIC_BYTES:
                    self._note_subscription(peer_id, subscription)
            if rpc.HasField("control"):
                await self.router.handle_rpc(rpc, peer_id)

    async def _pace(self, peer_id: ID, cost: float) -> None:
        """One bucket a peer, however many streams it has, and after it came back."""
        now_s = trio.current_time()
        bucket = self._buckets.pop(peer_id, None)
        if bucket is None:
            bucket = TokenBucket(limits.GOSSIP_RPCS_BURST, limits.GOSSIP_RPCS_PER_S, now_s)
        self._buckets[peer_id] = bucket
        if len(self._buckets) > limits.PEERS_KNOWN:
            self._buckets.popitem(last=False)
        if wait_s := bucket.delay(now_s, cost):
            await trio.sleep(wait_s)

    def _note_subscription(self, peer_id: ID, subscription: rpc_pb2.RPC.SubOpts) -> None:
        topic, held = subscription.topicid, self._peer_subscription_count.get(peer_id, 0)
        is_new = subscription.subscribe and peer_id not in self.peer_topics.get(topic, ())
        if is_new and held >= limits.GOSSIP_TOPICS_PER_PEER:
            self._penalise(peer_id.to_bytes(), LOW, "follows too many topics")
            return
        self.handle_subscription(peer_id, subscription)
        if not self.peer_topics.get(topic, True):
            del self.peer_topics[topic]  # the library keeps the names of all topics ever heard

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        """Judge a message that a peer sent, deliver it and send it on."""
        sender = msg_forwarder.to_bytes()
        self._traffic.gossip_received_bytes += len(msg.data)
        if not _is_of_form(msg):
            self._reject(sender, MID, "gossip of wrong form")
            return
        message_id = msg.from_id + msg.seqno
        self.router.flow.holders.note(msg_forwarder, [message_id])
        if self.seen_messages.has(message_id):
            self._traffic.gossip_duplicates += 1
            return
        topic = msg.topicIDs[0]
        if topic not in self.topic_ids:
            return
        if not is_authentic(msg):
            self._reject(sender, HIGH, "gossip with a wrong signature")
            return
        if msg.from_id == self.my_id.to_bytes():
            return  # our own, from before a restart
        verdict = self._topics.judge(sender, topic, msg.data)
        if verdict is Acceptance.REJECT:
            self._reject(sender, MID, "invalid gossip")
            return
        self.seen_messages.add(message_id)
        if verdict is Acceptance.ACCEPT:
            self._traffic.gossip_messages += 1
            self._topics.deliver(sender, topic, msg.data)
            await self.router.publish(msg_forwarder, msg)

    def _reject(self, sender: bytes, points: int, reason: str) -> None:
        self._traffic.gossip_rejected += 1
        self._penalise(sender, points, reason)

    # --- writing

    async def _handle_new_peer(self, peer_id: ID) -> None:
        if peer_id in self.peers:
            return
        try:
            stream = await self.host.new_stream(peer_id, self.protocols)
        except (HostException, *STREAM_ERRORS) as error:
            raise SwarmException(f"no gossip stream: {error}") from error  # is tried again
        protocol = stream.get_protocol()
        if peer_id in self.peers or protocol is None:
            await reset_quietly(stream)
            return
        outbox = Outbox()
        self.peers[peer_id], self.peer_queues[peer_id] = stream, outbox
        outbox.push(self.get_hello_packet(), priority=True)
        self.router.add_peer(peer_id, protocol)
        self.manager.run_task(self.handle_sending_messages, peer_id, stream, outbox)
        await self._send_recent_messages_to_new_peer(peer_id)

    async def handle_sending_messages(
        self, peer_id: ID, stream: INetStream, queue: RpcQueue
    ) -> None:
        """The only writers of this stream, under one lock, so that no two RPCs mix."""
        assert isinstance(queue, Outbox)
        lock = trio.Lock()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_large, peer_id, stream, queue, lock)
                await self._send_small(peer_id, stream, queue, lock)
        finally:
            await reset_quietly(stream)

    async def _send_small(
        self, peer_id: ID, stream: INetStream, queue: Outbox, lock: trio.Lock
    ) -> None:
        while (letter := await queue.take()) is not None:
            if not self.router.flow.holders.has(peer_id, letter.message_id):
                await self._write(peer_id, stream, queue, lock, letter)

    async def _send_large(
        self, peer_id: ID, stream: INetStream, queue: Outbox, lock: trio.Lock
    ) -> None:
        """One peer's turn at a time: who waits for the allowance does not know yet which shard it
        will send, so that none is sent that has become useless meanwhile."""
        while await queue.wait_large():
            await self.router.flow.may_send(queue)
            async with self._turn:
                await self._uploads.take(allowed := queue.large_bytes)
                letter = queue.take_large(partial(self.router.flow.holders.has, peer_id))
                self._uploads.reserve((len(letter.encoded) if letter else 0) - allowed)
            if letter is not None and not self._uploads.quiet_s():  # others have it, or are asked
                await self._write(peer_id, stream, queue, lock, letter)

    async def _write(
        self, peer_id: ID, stream: INetStream, queue: Outbox, lock: trio.Lock, letter: Letter
    ) -> None:
        try:
            async with lock:
                await _write_whole(stream, letter.encoded)
        except STREAM_ERRORS as error:
            _log.debug("gossip stream to %s ended: %s", peer_id, error)
            queue.close()
            if self.peers.get(peer_id) is stream:
                self._handle_dead_peer(peer_id)
        else:
            self._traffic.gossip_sent_bytes += letter.payload_bytes

    async def write_msg(self, stream: INetStream, rpc_msg: rpc_pb2.RPC) -> bool:
        """The library's way around the queue, led back into it."""
        queue = self.peer_queues.get(stream.muxed_conn.peer_id)
        return queue is not None and queue.push(rpc_msg)


def _is_of_form(message: rpc_pb2.Message) -> bool:
    """Whether its parts have the sizes that they may have; what is longer is not even remembered.
    A key is not signed, and neither are fields that nobody knows: they fit into the envelope (some
    libraries send a key that the origin's id holds already), or the whole message is refused."""
    is_id = len(message.from_id) + len(message.seqno) <= limits.GOSSIP_ID_BYTES
    is_short = len(message.data) <= limits.GOSSIP_MESSAGE_BYTES
    is_bare = message.ByteSize() <= len(message.data) + limits.GOSSIP_ENVELOPE_BYTES
    return is_id and is_short and is_bare and len(message.topicIDs) == 1


def is_authentic(message: rpc_pb2.Message) -> bool:
    """Whether the origin, an Ed25519 peer, signed it (libp2p pubsub specification)."""
    if len(message.seqno) != 8:
        return False
    bare = rpc_pb2.Message()
    bare.CopyFrom(message)
    bare.ClearField("signature")
    bare.ClearField("key")
    try:
        key = Ed25519PublicKey.from_public_bytes(peerid.public_key_of(message.from_id))
        key.verify(message.signature, _SIGNING_PREFIX + bare.SerializeToString())
    except (InvalidSignature, ValueError):
        return False
    return True


class _RpcReader:
    """Length-prefixed RPCs; few big reads instead of one a byte of prefix."""

    def __init__(self, stream: INetStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def next(self) -> bytes:
        """Silence between RPCs may last; within one it may not."""
        if not self._buffer:
            await self._read_more()
        with trio.move_on_after(limits.SILENT_S) as patience:
            while (header := _parse_varint(self._buffer)) is None:
                await self._read_more()
            length, start = header
            if length > limits.GOSSIP_RPC_BYTES:
                raise MalformedGossip(f"an RPC of {length} bytes")
            patience.deadline += length / limits.SLOWEST_BYTES_PER_S
            while len(self._buffer) < start + length:
                await self._read_more()
        if patience.cancelled_caught:
            raise SlowGossip
        body = bytes(memoryview(self._buffer)[start : start + length])
        del self._buffer[: start + length]
        return body

    async def _read_more(self) -> None:
        chunk = await self._stream.read(limits.READ_BYTES)
        if not chunk:
            raise EOFError("gossip stream ended")
        self._buffer += chunk


def _check_parts(rpc: rpc_pb2.RPC, size: int) -> None:
    """Raises MalformedGossip for more parts than anybody has a use for, without looking at them:
    540,000 empty ones fit into an RPC."""
    control = rpc.control
    if len(rpc.publish) > limits.GOSSIP_RPC_MESSAGES:
        raise MalformedGossip("too many messages")
    if len(rpc.subscriptions) > limits.GOSSIP_TOPICS_PER_PEER:
        raise MalformedGossip("too many subscriptions")
    ids = max(len(control.ihave), len(control.iwant), len(control.idontwant))
    if max(ids, len(control.graft), len(control.prune)) > limits.GOSSIP_CONTROL_PARTS:
        raise MalformedGossip("too many parts in control")
    if size - sum(message.ByteSize() for message in rpc.publish) > limits.GOSSIP_CONTROL_BYTES:
        raise MalformedGossip("too many bytes beside the messages")


def _cost(rpc: rpc_pb2.RPC) -> float:
    """What handling an RPC takes, in units of one small message: further ones are paid for apart."""
    control = rpc.control
    parts = len(rpc.subscriptions) + len(control.graft) + len(control.prune)
    parts += len(control.ihave) + len(control.iwant) + len(control.idontwant)
    ids = sum(len(part.messageIDs) for part in control.ihave)
    ids += sum(len(part.messageIDs) for part in control.iwant)
    ids += sum(len(part.messageIDs) for part in control.idontwant)
    return 1.0 + 0.25 * parts + ids / 64


def _parse_varint(buffer: bytearray) -> tuple[int, int] | None:
    """(value, bytes it takes), None if incomplete. Four bytes suffice for 256 MiB."""
    value = 0
    for index, byte in enumerate(buffer[:4]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, index + 1
    if len(buffer) >= 4:
        raise MalformedGossip("no length")
    return None


async def _write_whole(stream: INetStream, encoded: bytes) -> None:
    framed = memoryview(encode_uvarint(len(encoded)) + encoded)
    for start in range(0, len(framed), limits.WRITE_BYTES):
        await stream.write(bytes(framed[start : start + limits.WRITE_BYTES]))
