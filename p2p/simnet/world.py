"""The world between simulated machines: what travels, how long it takes, and what is broken.

Everything that crosses the network is an action due at a time; one task carries the actions out in
order (times on a grid of 10 ms, then the order in which they were sent). All faults are
methods here: partition and heal, freeze and thaw, power off and on.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import trio

from primed.p2p import limits
from primed.p2p.simnet.host import Access, Host
from primed.p2p.simnet.trace import Trace

if TYPE_CHECKING:
    from primed.p2p.simnet.connection import Connection

Action = Callable[[], None]
TICKS_PER_S = 100
PACKET_BYTES = 1400
RESEND_S = 0.2  # least time until TCP notices a lost packet
START_UNIX_MS = 1_800_000_000_000


class Penalty(NamedTuple):
    """`by` took points off `peer`."""

    at_s: float
    by: bytes
    peer: bytes
    points: int
    reason: str


class World:
    """`gossip_loss`: share of gossip messages that a hop drops, as a full queue does."""

    def __init__(self, seed: int, *, gossip_loss: float = 0.0) -> None:
        self.trace = Trace()
        self.rng = random.Random(f"world {seed}")
        self.gossip_loss = gossip_loss
        self.hosts: dict[bytes, Host] = {}  # by peer, in the order in which they were added
        self.connections: dict[int, Connection] = {}
        self.penalties: list[Penalty] = []
        self.links: dict[tuple[bytes, bytes], Access] = {}  # a line of its own from one to another
        self._by_address: dict[str, Host] = {}
        self._link_free_at: dict[tuple[bytes, bytes], float] = {}
        self._due: list[tuple[int, int, Action]] = []
        self._numbers = 0
        self._sooner = trio.Event()
        self._parted_at = 0.0

    def add(self, host: Host) -> Host:
        self.hosts[host.peer] = host
        self._by_address[host.address] = host
        return host

    def at_address(self, address: str) -> Host | None:
        return self._by_address.get(address)

    def unix_ms(self, peer: bytes) -> int:
        """What this peer's wall clock shows."""
        ahead_s = self.hosts[peer].clock_skew_s
        return START_UNIX_MS + int(1000 * (trio.current_time() + ahead_s))

    def number(self) -> int:
        """A number that was not given out before."""
        self._numbers += 1
        return self._numbers

    # ---- time

    def after(self, delay_s: float, action: Action) -> None:
        """Have something done; actions due at one moment in the order of these calls."""
        tick = math.ceil((trio.current_time() + delay_s) * TICKS_PER_S)
        number = self.number()
        heapq.heappush(self._due, (tick, number, action))
        if self._due[0][1] == number:
            self._sooner.set()

    async def run(self) -> None:
        """Carry out what is due, until cancelled."""
        while True:
            now = trio.current_time() * TICKS_PER_S + 1e-6
            while self._due and self._due[0][0] <= now:
                heapq.heappop(self._due)[2]()
            self._sooner = trio.Event()
            until = self._due[0][0] / TICKS_PER_S if self._due else math.inf
            with trio.move_on_at(until):
                await self._sooner.wait()

    # ---- distance

    def latency_s(self, a: Host, b: Host, via: Host | None = None) -> float:
        """One way, without queues."""
        relay_s = 2 * via.access.latency_s if via else 0.0
        own = self.links.get((a.peer, b.peer))
        return a.access.latency_s + b.access.latency_s + relay_s + (own.latency_s if own else 0.0)

    def travel_s(self, a: Host, b: Host, size_bytes: int, via: Host | None = None) -> float:
        """How long bytes that a sends now take to b; they take their place in a's queue."""
        latency_s = self.latency_s(a, b, via)
        ready = _through(a, trio.current_time(), size_bytes, latency_s)
        if via is not None:
            ready = _through(via, ready, size_bytes, latency_s)
        if (own := self.links.get((a.peer, b.peer))) is not None:
            ready = max(ready, self._link_free_at.get((a.peer, b.peer), 0.0))
            ready += size_bytes / _rate(own, latency_s)
            self._link_free_at[a.peer, b.peer] = ready
        jitter_s, arrives = 0.0, 1.0
        for line in (a.access, b.access, via.access if via else None, own):
            if line is not None:
                jitter_s += line.jitter_s
                arrives *= 1 - line.loss
        jitter_s *= self.rng.random()
        is_resent = self.rng.random() >= arrives ** (1 + size_bytes / PACKET_BYTES)
        resend_s = max(RESEND_S, 2 * latency_s) if is_resent else 0.0
        return ready - trio.current_time() + latency_s + jitter_s + resend_s

    def is_damaged(self, a: Host, b: Host) -> bool:
        own = self.links.get((a.peer, b.peer))
        damage = a.access.damage + b.access.damage + (own.damage if own else 0.0)
        return damage > 0 and self.rng.random() < damage

    # ---- faults

    def blocked_since(self, *hosts: Host) -> float | None:
        """When the way between hosts was lost; None if it is open."""
        since = [
            at for host in hosts for at in (host.frozen_since, host.off_since) if at is not None
        ]
        if any(host.side != hosts[0].side for host in hosts):
            since.append(self._parted_at)
        return min(since, default=None)

    def part(self, sides: Mapping[bytes, int]) -> None:
        """Split the network: only hosts of one side (0 if not named) reach each other."""
        self._parted_at = trio.current_time()
        for peer, side in sides.items():
            self.hosts[peer].side = side
        self.trace.note("world", "part", *(f"{self.hosts[p].name}:{s}" for p, s in sides.items()))
        self._expect_time_outs()

    def heal(self) -> None:
        for host in self.hosts.values():
            host.side = 0
        self.trace.note("world", "heal")
        for connection in list(self.connections.values()):
            self.after(self.rng.uniform(RESEND_S, 3.0), connection.send_again)

    def freeze(self, peer: bytes) -> None:
        """As SIGSTOP: the kernel still takes bytes for it, the process neither reads nor writes."""
        self.hosts[peer].frozen_since = trio.current_time()
        self.trace.note(self.hosts[peer].name, "frozen")
        self._expect_time_outs()

    def thaw(self, peer: bytes) -> None:
        host = self.hosts[peer]
        host.frozen_since = None
        held, host.held = host.held, []
        self.trace.note(host.name, "thawed", len(held))
        for action in held:
            action()

    def power_off(self, peer: bytes) -> None:
        """Nobody is told. The owner of the host's process ends it as well."""
        self.hosts[peer].off_since = trio.current_time()
        self.trace.note(self.hosts[peer].name, "power off")
        for connection in list(self.connections.values()):
            connection.abandon(peer)
        self._expect_time_outs()

    def power_on(self, peer: bytes) -> None:
        """Its kernel knows nothing of old connections and says so to whoever still uses one."""
        self.hosts[peer].off_since = None
        self.trace.note(self.hosts[peer].name, "power on")
        for connection in list(self.connections.values()):
            if peer in connection.streams and peer not in connection.ends():
                reset = partial(connection.close, connection.other(peer), "reset by the peer")
                self.after(self.rng.random(), reset)

    def drop_relayed_by(self, relay: Host) -> None:
        """Its process ends, and with it the connections over it."""
        for connection in list(self.connections.values()):
            if connection.via is relay:
                for peer in connection.ends():
                    connection.close(peer, "the relay is gone")

    def _expect_time_outs(self) -> None:
        """Pings go unanswered now: connections end, unless the way opens again before."""
        for connection in list(self.connections.values()):
            for peer in connection.ends():
                wait_s = limits.PING_TIMEOUT_S + self.rng.random() * limits.PING_INTERVAL_S
                self.after(wait_s, connection.time_out_of(peer))


def _rate(line: Access, latency_s: float) -> float:
    """Bytes a second; loss slows TCP down (Mathis, Semke, Mahdavi and Ott 1997)."""
    if not line.loss:
        return line.bytes_per_s
    return min(line.bytes_per_s, 1.22 * PACKET_BYTES / (2 * latency_s * math.sqrt(line.loss)))


def _through(host: Host, ready: float, size_bytes: int, latency_s: float) -> float:
    """When the bytes have left the host's uplink."""
    rate = _rate(host.access, latency_s)
    host.uplink_free_at = max(host.uplink_free_at, ready) + size_bytes / rate
    return host.uplink_free_at
