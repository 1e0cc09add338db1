"""Neighbours: who is connected, looked up now and then. Asking the network costs a millisecond for
a dozen peers, and downloads and announcements want to know several times a second."""

from __future__ import annotations

import trio

from primed.p2p.network import Network, PeerId

LOOK_S = 2.0


class Neighbours:
    def __init__(self, network: Network) -> None:
        self._network = network
        self._connected: set[PeerId] = set()
        self._relayed: set[PeerId] = set()
        self._looked_at = -1e9
        network.on_peer(self._came_or_went)

    def connected(self) -> set[PeerId]:
        self._look()
        return self._connected

    def relayed(self) -> set[PeerId]:
        """Those that are reached over a relay only."""
        self._look()
        return self._relayed

    def _look(self) -> None:
        now = trio.current_time()
        if now - self._looked_at >= LOOK_S:
            infos = self._network.peers()
            self._connected = {info.peer for info in infos}
            self._relayed = {info.peer for info in infos if info.relayed}
            self._looked_at = now

    def _came_or_went(self, peer: PeerId, is_connected: bool) -> None:
        self._looked_at = -1e9
