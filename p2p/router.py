"""GossipSub 1.1/1.2 on the library's mesh logic, with its costly and unbounded parts replaced.

Mesh upkeep (prune, back-off, fanout, IHAVE) is the library's. Replaced: publishing (no rate limit on
ourselves, no queue for peers that never subscribe, IDONTWANT for large messages only), sending (one
queue a peer, `shardflow` for large ones), the heartbeat (an error in it would end the node), scoring (ours:
`penalties`), clocks that charge a peer (a wall clock that is set back makes honest ones early), equivocation (origins are authenticated and ids remembered instead), and bounds on what
control messages may make us remember or send.

Against Sybils (`meshplaces`), after gossipsub 1.1: few of one network get into a mesh; small messages
of our own go to every peer that follows the topic, not only to a mesh ("flood publishing"); and peers
named in a PRUNE are not dialled.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Any, Protocol

import trio
from libp2p.peer.id import ID
from libp2p.pubsub import gossipsub
from libp2p.pubsub.mcache import MessageCache, default_msg_id_fn
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.utils import safe_bytes_from_hex

from primed.p2p import limits
from primed.p2p.errors import LOW
from primed.p2p.meshplaces import MeshPlaces
from primed.p2p.offers import Offers
from primed.p2p.outbox import Letter, Outbox
from primed.p2p.shardflow import Shardflow

_log = logging.getLogger(__name__)
_BACK_OFF_LONGEST_S = 3600
_ANSWERS_BEATS = 5  # heartbeats after which answers are counted anew
_KEPT_BEATS = 24  # heartbeats that messages are kept for: a swarm that heals offers them again


class BoundedCache(MessageCache):
    """Whole messages of the last heartbeats, for IWANT and for peers that join; oldest dropped."""

    def __init__(self) -> None:
        super().__init__(window_size=3, history_size=_KEPT_BEATS)
        self._bytes = 0

    def put(self, msg: rpc_pb2.Message) -> None:
        if default_msg_id_fn(msg) in self.msgs:
            return
        super().put(msg)
        self._bytes += msg.ByteSize()
        for entries in reversed(self.history):
            while entries and self._bytes > limits.GOSSIP_CACHE_BYTES:
                self._drop(entries.pop(0).mid)

    def kept(self, topic: str) -> list[bytes]:
        """Ids of the newest messages of a topic."""
        entries = (entry for entries in self.history for entry in entries)
        ids = [entry.mid for entry in entries if topic in entry.topics and entry.mid in self.msgs]
        return ids[: limits.GOSSIP_CONTROL_IDS]

    def shift(self) -> None:
        for entry in self.history[-1]:
            self._drop(entry.mid)
        super().shift()

    def _drop(self, mid: bytes) -> None:
        if message := self.msgs.pop(mid, None):
            self._bytes -= message.ByteSize()


class Owner(Protocol):
    """What the router asks or tells of peers."""

    def is_chosen(self, peer: bytes) -> bool: ...

    def network_of(self, peer: bytes) -> str: ...

    def penalise(self, peer: bytes, points: int, reason: str) -> None: ...


class Router(gossipsub.GossipSub):
    def __init__(self, owner: Owner, profile: limits.Profile) -> None:
        super().__init__(
            protocols=[gossipsub.PROTOCOL_ID_V12, gossipsub.PROTOCOL_ID_V11],
            degree=6,
            degree_low=4,
            degree_high=12,
            heartbeat_interval=limits.HEARTBEAT_S,
            adaptive_gossip_enabled=False,
            spam_protection_enabled=False,
            eclipse_protection_enabled=False,
            max_idontwant_messages=limits.GOSSIP_CONTROL_IDS,
        )
        self.scorer = None
        self._penalise = owner.penalise
        self._places = MeshPlaces(owner.is_chosen, owner.network_of, profile, self.degree_high)
        self._answers: Counter[tuple[ID, bytes]] = Counter()
        self._heard: Counter[tuple[ID, str]] = (
            Counter()
        )  # IHAVEs by topic, and IWANTs, in this beat
        self.mcache = self._cache = BoundedCache()
        self._beats = 0
        self._offers = Offers()
        self.flow = Shardflow(self, self._start)

    def _start(self, task: Callable[..., Awaitable[None]], *args: Any) -> None:
        assert self.pubsub is not None
        self.pubsub.manager.run_task(task, *args)

    # --- sending

    async def publish(self, msg_forwarder: ID, pubsub_msg: rpc_pb2.Message) -> None:
        """Send a message that we made, or send on one that was accepted. Waits for room if it is
        ours and large."""
        assert self.pubsub is not None
        self.mcache.put(pubsub_msg)
        letter = letter_of(pubsub_msg)
        origin = ID(pubsub_msg.from_id)
        to = list(
            self._get_peers_to_send(pubsub_msg.topicIDs, msg_forwarder, origin, letter.message_id)
        )
        is_ours = msg_forwarder == self.pubsub.my_id
        if is_ours and len(pubsub_msg.data) < limits.IDONTWANT_FROM_BYTES:
            to = self._followers(pubsub_msg.topicIDs)
        is_ours_to_spread = letter.is_large and (is_ours or msg_forwarder == origin)
        if is_ours_to_spread:
            to = self._spread_to(pubsub_msg.topicIDs, {msg_forwarder, origin})
        if len(pubsub_msg.data) >= limits.IDONTWANT_FROM_BYTES and not is_ours:
            asked = self._offers.arrived(letter.message_id)  # they may have it in a long queue
            self._tell_we_have(
                letter.message_id, pubsub_msg.topicIDs, asked | {origin}, msg_forwarder
            )
        if letter.is_large and is_ours:
            await self.flow.send_own(to, letter)
        elif not (
            letter.is_large and self.flow.send_on(to, letter, is_ours_to_spread=is_ours_to_spread)
        ):
            for peer_id in to:
                self._put(peer_id, letter)
        for topic in pubsub_msg.topicIDs:
            self.time_since_last_publish[topic] = int(time.time())

    def _followers(self, topics: Iterable[str]) -> list[ID]:
        assert self.pubsub is not None
        followers = (self.pubsub.peer_topics.get(topic, set()) for topic in topics)
        return [peer_id for peer_id in set().union(*followers) if peer_id in self.peer_protocol]

    def _spread_to(self, topics: Iterable[str], without: set[ID]) -> list[ID]:
        """Everybody who follows, the mesh before others: who alone sends a message need not fear
        that its receivers get it twice, and the more it reaches, the fewer are left to chance."""
        near = set().union(*(self.mesh.get(topic, set()) for topic in topics))
        followers = [peer_id for peer_id in self._followers(topics) if peer_id not in without]
        followers.sort(key=lambda peer_id: peer_id not in near)
        return followers[: limits.GOSSIP_SPREAD_PEERS]

    def _tell_we_have(self, message_id: bytes, topics: Any, asked: set[ID], without: ID) -> None:
        control = rpc_pb2.ControlMessage(
            idontwant=[rpc_pb2.ControlIDontWant(messageIDs=[message_id])]
        )
        letter = Letter(rpc_pb2.RPC(control=control).SerializeToString())
        told = asked.union(*(self.mesh.get(topic, set()) for topic in topics))
        for peer_id in told - {without}:
            if self.peer_protocol.get(peer_id) == gossipsub.PROTOCOL_ID_V12:
                self._put(peer_id, letter, urgent=True)

    def send_rpc(self, peer_id: ID, rpc: rpc_pb2.RPC, priority: bool = False) -> None:
        if rpc.HasField("control"):
            outbound = rpc_pb2.RPC(control=rpc.control)
            self._put(peer_id, Letter(outbound.SerializeToString()), urgent=priority)
        for message in rpc.publish:
            self._put(peer_id, letter_of(message))

    async def emit_control_message(self, control_msg: rpc_pb2.ControlMessage, to_peer: ID) -> None:
        self.send_rpc(to_peer, rpc_pb2.RPC(control=control_msg), priority=True)

    async def send_recent_messages(self, peer_id: ID, topic: str) -> None:
        """What a peer that joins late may have missed."""
        for message_id in self.mcache.window(topic):
            self._answer(peer_id, message_id)

    def _answer(self, peer_id: ID, message_id: bytes) -> None:
        """Send a message that is kept, so many times to the same peer."""
        message = self.mcache.get(message_id)
        if message and self._answers[peer_id, message_id] < limits.GOSSIP_ANSWERS:
            self._answers[peer_id, message_id] += 1
            self._put(peer_id, letter_of(message))

    async def flush_pending_messages(self, peer_id: ID) -> None:
        """Nothing is held back: see `send_recent_messages`."""

    def _put(self, peer_id: ID, letter: Letter, *, urgent: bool = False) -> None:
        outbox = self.outbox(peer_id)
        if outbox is not None and not outbox.put(letter, urgent=urgent):
            _log.debug("outbox of %s is full", peer_id)

    def outbox(self, peer_id: ID) -> Outbox | None:
        queue = self.pubsub.peer_queues.get(peer_id) if self.pubsub else None
        return queue if isinstance(queue, Outbox) else None

    def outboxes(self) -> list[Outbox]:
        queues = self.pubsub.peer_queues.values() if self.pubsub else ()
        return [queue for queue in queues if isinstance(queue, Outbox)]

    def remove_peer(self, peer_id: ID) -> None:
        super().remove_peer(peer_id)
        self.flow.holders.forget(peer_id)

    # --- receiving

    async def handle_rpc(self, rpc: rpc_pb2.RPC, sender_peer_id: ID) -> None:
        """Control messages; `gossip` has seen to it that they have few parts."""
        control = rpc.control
        for ihave in control.ihave:
            if ihave.topicID in self.mesh and self._check_ihave_rate_limit(
                sender_peer_id, ihave.topicID
            ):
                self._offered(sender_peer_id, ids_of(ihave.messageIDs).values())
        for iwant in control.iwant:
            if self._check_iwant_rate_limit(sender_peer_id):
                for message_id in ids_of(iwant.messageIDs).values():
                    self.flow.holders.drop(sender_peer_id, message_id)
                    self._answer(sender_peer_id, message_id)
        for graft in control.graft:
            if len(graft.topicID) <= limits.GOSSIP_TOPIC_BYTES:
                await self.handle_graft(graft, sender_peer_id)
        for prune in control.prune:
            if prune.topicID in self.mesh:  # else nothing of ours ends, and nothing is remembered
                prune.backoff = min(prune.backoff, _BACK_OFF_LONGEST_S)
                del prune.peers[:]
                await self.handle_prune(prune, sender_peer_id)
        for idontwant in control.idontwant:
            heeded = idontwant.messageIDs[: limits.GOSSIP_CONTROL_IDS]
            held = (i for i in heeded if len(i) <= limits.GOSSIP_ID_BYTES)
            self.flow.holders.note(sender_peer_id, held)

    def _offered(self, by: ID, message_ids: Collection[bytes]) -> None:
        assert self.pubsub is not None
        self.flow.holders.note(by, message_ids)
        now = trio.current_time()
        for message_id in message_ids:
            if not self.pubsub.seen_messages.has(message_id):
                self._offers.note(message_id, by, now)

    async def handle_graft(self, graft_msg: rpc_pb2.ControlGraft, sender_peer_id: ID) -> None:
        """Into the mesh, if there is a place; topics we do not follow are ignored."""
        topic = graft_msg.topicID
        members = self.mesh.get(topic)
        if members is None or sender_peer_id in members:
            return
        if self._check_back_off(sender_peer_id, topic):
            self._penalise(sender_peer_id.to_bytes(), LOW, "grafts after a prune")
        elif self._places.admits(members, sender_peer_id):
            members.add(sender_peer_id)
            self._notify_mesh_peer_added(sender_peer_id, topic)
            return
        self._add_back_off(sender_peer_id, topic, False)
        await self.emit_prune(topic, sender_peer_id, False, False)

    def _notify_mesh_peer_added(self, peer_id: ID, topic: str) -> None:
        """A new member of our mesh is offered all that is kept: it may have been cut off for longer
        than the three heartbeats whose messages are offered otherwise."""
        super()._notify_mesh_peer_added(peer_id, topic)
        if ids := self._cache.kept(topic):
            ihave = rpc_pb2.ControlIHave(topicID=topic, messageIDs=ids)
            rpc = rpc_pb2.RPC(control=rpc_pb2.ControlMessage(ihave=[ihave]))
            self._put(peer_id, Letter(rpc.SerializeToString()))

    def _check_ihave_rate_limit(self, peer_id: ID, topic: str) -> bool:
        most = int(self.max_ihave_messages_per_second)
        return self._is_within(peer_id, topic, most, "a flood of IHAVE")

    def _check_iwant_rate_limit(self, peer_id: ID) -> bool:
        return self._is_within(peer_id, "", limits.GOSSIP_TOPICS_PER_PEER, "a flood of IWANT")

    def _is_within(self, peer_id: ID, topic: str, most: int, complaint: str) -> bool:
        """Whether a peer has sent no more of these than so many since the last heartbeat."""
        self._heard[peer_id, topic] += 1
        if self._heard[peer_id, topic] <= most:
            return True
        self._penalise(peer_id.to_bytes(), LOW, complaint)
        return False

    def _add_back_off(
        self, peer: ID, topic: str, is_unsubscribe: bool, backoff_duration: int = 0
    ) -> None:
        usual_s = self.unsubscribe_back_off if is_unsubscribe else self.prune_back_off
        until = int(trio.current_time()) + (backoff_duration or usual_s)
        of_topic = self.back_off.setdefault(topic, {})
        of_topic[peer] = max(of_topic.get(peer, until), until)

    def _check_back_off(self, peer: ID, topic: str) -> bool:
        return self.back_off.get(topic, {}).get(peer, 0) > int(trio.current_time())

    # --- heartbeat

    async def heartbeat(self) -> None:
        while True:
            await trio.sleep(limits.HEARTBEAT_S)
            try:
                await self._beat()
            except Exception:  # noqa: BLE001  the border: a daemon task that ends takes the node with it
                _log.exception("gossip heartbeat failed")

    async def _beat(self) -> None:
        assert self.pubsub is not None
        self._heard.clear()
        for topic, members in self.mesh.items():
            members &= self.pubsub.peer_topics.get(topic, set())
        grafts, prunes = self.mesh_heartbeat()
        self._graft_chosen(grafts)
        self.fanout_heartbeat()
        await self._emit_control_msgs(grafts, prunes, self.gossip_heartbeat())
        asks = self._offers.due(self.pubsub.seen_messages.has, trio.current_time())
        for peer_id, message_ids in asks.items():
            await self.emit_iwant(message_ids, peer_id)
        self.mcache.shift()
        self._beats += 1
        if self._beats % _ANSWERS_BEATS == 0:
            self._answers.clear()
            self._forget_back_offs()
        self._periodic_security_cleanup()

    def _graft_chosen(self, grafts: defaultdict[ID, list[str]]) -> None:
        assert self.pubsub is not None
        for topic, members in self.mesh.items():
            followers = self.pubsub.peer_topics.get(topic, set())
            able = {p for p in followers if not self._check_back_off(p, topic)}
            for peer_id in self._places.missing_chosen(members, able & self.peer_protocol.keys()):
                members.add(peer_id)
                self._notify_mesh_peer_added(peer_id, topic)
                grafts[peer_id].append(topic)

    def _select_peers_for_pruning(self, topic: str, num_to_prune: int) -> list[ID]:
        return self._places.to_leave(self.mesh[topic], num_to_prune)

    def _get_in_topic_gossipsub_peers_from_minus(
        self, topic: str, num_to_select: int, minus: Iterable[ID], backoff_check: bool = False
    ) -> list[ID]:
        """Whom to graft, to tell what we have (IHAVE), or to send to without a mesh."""
        everybody = super()._get_in_topic_gossipsub_peers_from_minus(
            topic, len(self.peer_protocol), minus, backoff_check
        )
        return self._places.pick(num_to_select, everybody, list(minus))

    def _forget_back_offs(self) -> None:
        now = int(trio.current_time())
        for topic, until in list(self.back_off.items()):
            self.back_off[topic] = {peer_id: at for peer_id, at in until.items() if at > now}
            if not self.back_off[topic]:
                del self.back_off[topic]

    async def _emit_control_msgs(
        self,
        peers_to_graft: dict[ID, list[str]],
        peers_to_prune: dict[ID, list[str]],
        peers_to_gossip: dict[ID, dict[str, list[bytes]]],
    ) -> None:
        """One control message a peer. (The library sends each peer the grafts of all others.)"""
        controls: defaultdict[ID, rpc_pb2.ControlMessage] = defaultdict(rpc_pb2.ControlMessage)
        for peer_id, topics in peers_to_graft.items():
            controls[peer_id].graft.extend(rpc_pb2.ControlGraft(topicID=t) for t in topics)
        for peer_id, topics in peers_to_prune.items():
            controls[peer_id].prune.extend(
                rpc_pb2.ControlPrune(topicID=t, backoff=self.prune_back_off) for t in topics
            )
        for peer_id, offers in peers_to_gossip.items():
            controls[peer_id].ihave.extend(
                rpc_pb2.ControlIHave(topicID=t, messageIDs=ids[: limits.GOSSIP_CONTROL_IDS])
                for t, ids in offers.items()
            )
        for peer_id, control in controls.items():
            await self.emit_control_message(control, peer_id)


def ids_of(texts: Sequence[bytes]) -> dict[bytes, bytes]:
    """Ids by how a control message carries them (hex, mostly); no more and no longer ones than
    there may be."""
    ids = {text: safe_bytes_from_hex(text) for text in texts[: limits.GOSSIP_CONTROL_IDS]}
    return {text: i for text, i in ids.items() if i and len(i) <= limits.GOSSIP_ID_BYTES}


def letter_of(message: rpc_pb2.Message) -> Letter:
    encoded = rpc_pb2.RPC(publish=[message]).SerializeToString()
    return Letter(encoded, default_msg_id_fn(message), len(message.data))
