"""A connection between two simulated nodes: bytes in order, until one end closes or is lost.

Each end knows only what reached it: a peer that is cut off or without power is noticed by pings
that stay unanswered. Called by `network` and `stream`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import trio

from primed.p2p.simnet.host import Host
from primed.p2p.simnet.world import Action, World

if TYPE_CHECKING:
    from primed.p2p.simnet.network import SimNetwork
    from primed.p2p.simnet.stream import SimStream

RECORD_BYTES = 60  # headers of TCP, Noise and Yamux


class Connection:
    """`via`: the relay between them, if any."""

    def __init__(
        self, world: World, dialler: SimNetwork, listener: SimNetwork, via: Host | None
    ) -> None:
        self.world = world
        self.dialler = dialler.peer
        self.since_s = trio.current_time()
        self.streams: dict[bytes, dict[int, SimStream]] = {dialler.peer: {}, listener.peer: {}}
        self._networks = {dialler.peer: dialler, listener.peer: listener}
        self._other = {dialler.peer: listener.peer, listener.peer: dialler.peer}
        self.via = via
        self._arrived = dict.fromkeys(self._networks, 0.0)  # sender -> when its last bytes arrive
        self._stalled: dict[bytes, list[Action]] = {peer: [] for peer in self._networks}
        self._number = world.number()
        world.connections[self._number] = self

    def ends(self) -> list[bytes]:
        """The peers for whom it is open."""
        return list(self._networks)

    def other(self, peer: bytes) -> bytes:
        return self._other[peer]

    def network(self, peer: bytes) -> SimNetwork | None:
        """The node at this end while it is open."""
        return self._networks.get(peer)

    # ---- what travels

    def send(self, sender: bytes, size_bytes: int, action: Action) -> None:
        """Do this at the other end when these bytes get there, in order, if they do."""
        if sender not in self._networks:
            return
        a, b = self.world.hosts[sender], self.world.hosts[self.other(sender)]
        if a.frozen_since is not None:
            a.held.append(partial(self.send, sender, size_bytes, action))
            return
        travel_s = self.world.travel_s(a, b, size_bytes + RECORD_BYTES, self.via)
        at = max(trio.current_time() + travel_s, self._arrived[sender])
        self._arrived[sender] = at
        self.world.after(at - trio.current_time(), partial(self._arrive, sender, action))

    def _arrive(self, sender: bytes, action: Action) -> None:
        receiver = self.other(sender)
        a, b = self.world.hosts[sender], self.world.hosts[receiver]
        again = partial(self._arrive, sender, action)
        if receiver not in self._networks:
            return
        if b.frozen_since is not None:
            b.held.append(again)
        elif self._is_cut(a, b):
            self._stalled[sender].append(again)  # TCP sends it again
        elif self.world.is_damaged(a, b):
            self.close(receiver, "damaged record")
        else:
            action()

    def _is_cut(self, a: Host, b: Host) -> bool:
        relay = self.via or a
        is_relay_silent = self.via is not None and self.via.is_silent
        return len({a.side, b.side, relay.side}) > 1 or b.off_since is not None or is_relay_silent

    def send_again(self) -> None:
        """What was sent into a partition arrives after it, if the connection lives."""
        for sender, stalled in self._stalled.items():
            self._stalled[sender] = []
            for action in stalled:
                action()

    # ---- its end

    def close(self, peer: bytes, reason: str) -> None:
        """End it on one side; the other side hears of it."""
        if peer in self._networks:
            self.send(peer, 0, partial(self.close, self.other(peer), "closed by the peer"))
            self._drop(peer, reason)

    def abandon(self, peer: bytes) -> None:
        """This end is gone without a word."""
        if peer in self._networks:
            self._drop(peer, "gone")

    def time_out_of(self, peer: bytes) -> Callable[[], None]:
        """To be done after pings had time to fail: close, if the way was lost all the time."""
        other = self.other(peer)
        asked_at = trio.current_time()

        def check() -> None:
            own = self.world.hosts[peer]
            far = self.world.hosts[other]
            since = self.world.blocked_since(own, far, self.via or own)
            if since is not None and since <= asked_at and not own.is_silent:
                self.close(peer, "no answer to pings")

        return check

    def _drop(self, peer: bytes, reason: str) -> None:
        network = self._networks.pop(peer)
        if not self._networks:
            self.world.connections.pop(self._number, None)
        for stream in list(self.streams[peer].values()):
            stream.fail("connection lost")
        network.lost(self, reason)
