"""A swarm of download machines in virtual time: `protocols.shardcast`'s pure parts, event by event.

Real: `machine.Download`, `announcer.Announcer`, `seeding.Seeding`. Modelled: uplinks (leaf by leaf in
turn among the requests at hand, as the upload allowance does it), one-way latencies, who can
connect to whom, deaths. Not modelled: downlinks, CPU, lost messages.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from primed.p2p.uploads import BACKLOG_S
from primed.protocols.shardcast import machine
from primed.protocols.shardcast.announcer import Announcement, Announcer
from primed.protocols.shardcast.bitmap import Bitmap
from primed.verify.statements import Payload

TICK_S = 0.25
LEAF_BYTES = 256 * 1024
WIDTHS = 16  # leaves of a request over the bulk lane
LINKS = 12  # connections that a node looks for (`p2p.limits.HOME.target_peers`)


@dataclass
class Swarm:
    """uplinks: bytes a second of each node, the first is the origin; public: who can be dialled;
    latency_s: one way, of each node to the core."""

    leaves: int
    uplinks: list[float]
    public: list[bool]
    latency_s: list[float]
    seed: int
    links: int = LINKS
    done_at: dict[int, float] = field(default_factory=dict)
    sent_leaves: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self.payload = Payload(bytes(32), self.leaves * LEAF_BYTES, LEAF_BYTES)
        self.nodes = [Node(self, number) for number in range(len(self.uplinks))]
        for node in self.nodes:
            self.link_up(node)

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now + delay_s, next(self._order), action))

    def link_up(self, node: Node) -> None:
        """Connect it to random others until it has enough, as far as they can be connected."""
        others = [
            other
            for other in self.nodes
            if other is not node
            and other.number not in node.near
            and (node.is_public or other.is_public)
        ]
        wanted = max(0, self.links - len(node.near))
        for other in self.rng.sample(others, min(len(others), wanted)):
            node.near[other.number] = other.near[node.number] = None

    def run(self, until_s: float) -> None:
        """Until all are done."""
        for node in self.nodes:
            self.after(self.rng.random() * TICK_S, node.tick)
        while self._due and self.now < until_s:
            self.now, _, action = heapq.heappop(self._due)
            action()
            if all(node.number in self.done_at for node in self.nodes[1:]):
                return

    def trip_s(self, a: Node, b: Node) -> float:
        return self.latency_s[a.number] + self.latency_s[b.number]


@dataclass
class _Served:
    """A request on its way through an uplink."""

    asker: Node
    ask: machine.Ask
    left: deque[int]
    sent: int = 0


class Node:
    def __init__(self, swarm: Swarm, number: int) -> None:
        self.swarm, self.number = swarm, number
        self.is_public = swarm.public[number]
        self.near: dict[int, None] = {}
        self.here = Bitmap.full(swarm.leaves) if number == 0 else Bitmap(swarm.leaves)
        self.rng = random.Random(f"{swarm.seed} {number}")
        self.announcer = Announcer(lambda payload: self.here, self.rng)
        if number == 0:
            self.announcer.seed(swarm.payload)
        start = Bitmap(swarm.leaves, bytes(self.here))
        self.download = machine.Download(start, self.rng, False, 0.0)
        self._queue: deque[_Served] = deque()
        self._is_sending = False

    # ---- the asker

    def tick(self) -> None:
        liked = sorted(self.near, key=lambda number: (number > 0, hash((self.number, number))))
        peers = tuple(_name(number) for number in liked)
        self.step(machine.Tick(peers, dict.fromkeys(peers, WIDTHS)))
        self._tell_news()
        self.swarm.after(TICK_S, self.tick)

    def _tell_news(self) -> None:
        for announcement in self.announcer.due(len(self.near), self.swarm.now):
            self._announce(announcement)

    def step(self, event: machine.Event) -> None:
        if self.download.is_done:
            return
        for effect in self.download.step(event, self.swarm.now):
            if isinstance(effect, machine.FindMore):
                self.swarm.link_up(self)
            else:
                self._send(effect)
        if self.download.is_done:
            self.swarm.done_at[self.number] = self.swarm.now

    def _send(self, effect: machine.AskHave | machine.Ask | machine.Accuse) -> None:
        other = self.swarm.nodes[_number(effect.peer)]
        trip_s = self.swarm.trip_s(self, other)
        if isinstance(effect, machine.AskHave):
            self.swarm.after(trip_s, partial(other.tell_have, self))
        elif isinstance(effect, machine.Ask):
            self.swarm.after(trip_s, partial(other.serve, self, effect))

    def _announce(self, announcement: Announcement) -> None:
        other = self.swarm.nodes[_number(announcement.peer)]
        trip_s = self.swarm.trip_s(self, other)
        self.swarm.after(trip_s, partial(other.be_told, self, announcement))

    def be_told(self, sender: Node, announcement: Announcement) -> None:
        self.step(machine.Gained(_name(sender.number), announcement.indexes))
        has = tuple(index for index in announcement.indexes if index in self.here)
        self.swarm.after(
            self.swarm.trip_s(self, sender),
            lambda: sender.announcer.arrived(
                announcement, has, not self.download.is_done, self.swarm.now
            ),
        )

    # ---- the answerer

    def tell_have(self, asker: Node) -> None:
        peer, payload = _name(asker.number), self.swarm.payload
        shown = self.announcer.subscribe(peer, payload, self.swarm.now)
        told = machine.HaveIs(_name(self.number), bytes(shown))
        self.swarm.after(self.swarm.trip_s(self, asker), partial(asker.step, told))

    def serve(self, asker: Node, ask: machine.Ask) -> None:
        if len(self._queue) * self._leaf_s() > BACKLOG_S:
            busy = machine.Answered(ask, 0, busy_s=len(self._queue) * self._leaf_s() - BACKLOG_S)
            self.swarm.after(self.swarm.trip_s(self, asker), partial(asker.step, busy))
            return
        self._queue.append(_Served(asker, ask, deque(ask.indexes)))
        if not self._is_sending:
            self._send_next()

    def _leaf_s(self) -> float:
        return LEAF_BYTES / self.swarm.uplinks[self.number]

    def _send_next(self) -> None:
        self._is_sending = bool(self._queue)
        if self._queue:
            self.swarm.after(self._leaf_s(), partial(self._sent, self._queue.popleft()))

    def _sent(self, served: _Served) -> None:
        index = served.left.popleft()
        asker, trip_s = served.asker, self.swarm.trip_s(self, served.asker)
        self.swarm.sent_leaves += 1
        served.sent += 1
        now, payload = self.swarm.now, self.swarm.payload
        self.announcer.served(_name(asker.number), payload, index, now)
        self.swarm.after(trip_s, partial(asker.got, self, index))
        if served.left:
            self._queue.append(served)
        else:
            answered = machine.Answered(served.ask, served.sent)
            self.swarm.after(trip_s, partial(asker.step, answered))
        self._send_next()

    def got(self, sender: Node, index: int) -> None:
        if index not in self.here:
            self.here.add(index)
            self._tell_news()
        self.step(machine.Got(index, _name(sender.number)))


def _name(number: int) -> bytes:
    return number.to_bytes(4, "big")


def _number(name: bytes) -> int:
    return int.from_bytes(name, "big")
