"""Gossip in the simulation: a mesh for each topic, as gossipsub keeps it, without its heartbeat.

Each node picks GRAFTS of its connected subscribers, and the choice binds both, so a mesh has about
twice as many links a node. A message goes to the mesh, is judged by each receiver's validator and
sent on if accepted. Ids are origin and number: nobody uses up another's. What a hop loses stays
lost; the protocols above have to bear it.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING

import trio

from primed.p2p import limits
from primed.p2p.errors import MID
from primed.p2p.network import Acceptance
from primed.p2p.topics import Topics

if TYPE_CHECKING:
    from primed.p2p.simnet.network import SimNetwork

GRAFTS = 3
ENVELOPE_BYTES = 160  # origin, number, topic, signature
MessageId = tuple[bytes, int]


class Gossip:
    def __init__(self, network: SimNetwork, topics: Topics) -> None:
        self._network = network
        self._topics = topics
        self._following: dict[bytes, dict[str, None]] = {}  # connected peer -> its topics
        self._mesh: dict[str, dict[bytes, None]] = {}
        self._seen: OrderedDict[MessageId, None] = OrderedDict()
        self._number = int(trio.current_time() * 1_000_000)  # never behind an earlier life's

    def topics_of(self, peer: bytes) -> tuple[str, ...]:
        return tuple(sorted(self._following.get(peer, ())))

    # ---- who follows what

    def connected(self, peer: bytes) -> None:
        self._following[peer] = {}
        for topic in sorted(self._topics.names()):
            self._tell(peer, topic, True)

    def lost(self, peer: bytes) -> None:
        self._following.pop(peer, None)
        for topic, mesh in self._mesh.items():
            if mesh.pop(peer, 0) is None:
                self._graft(topic)

    def follow(self, topic: str) -> None:
        self._mesh.setdefault(topic, {})
        for peer in self._following:
            self._tell(peer, topic, True)
        self._graft(topic)

    def unfollow(self, topic: str) -> None:
        self._mesh.pop(topic, None)
        for peer in self._following:
            self._tell(peer, topic, False)

    def _tell(self, peer: bytes, topic: str, is_following: bool) -> None:
        me = self._network.peer
        self._network.send(peer, 100, lambda far: far.gossip.told(me, topic, is_following))

    def told(self, peer: bytes, topic: str, is_following: bool) -> None:
        if (topics := self._following.get(peer)) is None:
            return
        if is_following and len(topics) < limits.GOSSIP_TOPICS_PER_PEER:
            topics[topic] = None
            self._graft(topic)
        elif not is_following:
            topics.pop(topic, None)
            if self._mesh.get(topic, {}).pop(peer, 0) is None:
                self._graft(topic)

    def _graft(self, topic: str) -> None:
        mesh = self._mesh.get(topic)
        if mesh is None or len(mesh) >= GRAFTS:
            return
        others = [p for p, topics in self._following.items() if topic in topics and p not in mesh]
        rng, me = self._network.world.rng, self._network.peer
        for peer in rng.sample(others, min(GRAFTS - len(mesh), len(others))):
            mesh[peer] = None
            self._network.send(peer, 100, lambda far: far.gossip.grafted(me, topic))

    def grafted(self, peer: bytes, topic: str) -> None:
        if topic in self._mesh and peer in self._following:
            self._mesh[topic][peer] = None

    # ---- messages

    def publish(self, topic: str, data: bytes) -> None:
        self._number += 1
        message_id = (self._network.peer, self._number)
        self._note_seen(message_id)
        self._send_on(topic, message_id, data, without=b"")

    def _send_on(self, topic: str, message_id: MessageId, data: bytes, without: bytes) -> None:
        world, me = self._network.world, self._network.peer
        to = list(self._mesh.get(topic, ()))
        if not to:  # not followed here, or nobody grafted yet: to some who follow it
            to = [peer for peer, topics in self._following.items() if topic in topics][:GRAFTS]
        for peer in to:
            if peer == without or peer == message_id[0]:
                continue
            if world.gossip_loss and world.rng.random() < world.gossip_loss:
                continue
            self._network.traffic.gossip_sent_bytes += len(data)
            take = partial(_received, sender=me, topic=topic, message_id=message_id, data=data)
            self._network.send(peer, len(data) + ENVELOPE_BYTES, take)

    def receive(self, sender: bytes, topic: str, message_id: MessageId, data: bytes) -> None:
        traffic = self._network.traffic
        traffic.gossip_received_bytes += len(data)
        if message_id in self._seen:
            traffic.gossip_duplicates += 1
            return
        if topic not in self._mesh or message_id[0] == self._network.peer:
            return
        verdict = self._topics.judge(sender, topic, data)
        if verdict is Acceptance.REJECT:
            traffic.gossip_rejected += 1
            self._network.penalise(sender, MID, "invalid gossip")
            return
        self._note_seen(message_id)
        if verdict is Acceptance.ACCEPT:
            traffic.gossip_messages += 1
            self._topics.deliver(sender, topic, data)
            self._send_on(topic, message_id, data, without=sender)

    def _note_seen(self, message_id: MessageId) -> None:
        self._seen[message_id] = None
        if len(self._seen) > limits.GOSSIP_SEEN_IDS:
            self._seen.popitem(last=False)


def _received(
    far: SimNetwork, *, sender: bytes, topic: str, message_id: MessageId, data: bytes
) -> None:
    far.gossip.receive(sender, topic, message_id, data)
