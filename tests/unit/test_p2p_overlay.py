"""Whom the overlay dials when most of those it knows are silent; on a clock that waits for nobody."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
from trio.testing import MockClock

from primed.p2p import limits, peerid
from primed.p2p.errors import RemoteError
from primed.p2p.overlay import Overlay
from primed.p2p.peerbook import FROM_DHT, PeerBook
from primed.p2p.waits import OpenWaits


def peer_number(number: int) -> bytes:
    return peerid.of_public_key(number.to_bytes(32, "big"))


OWN, BOOTSTRAP = peer_number(10_000), peer_number(10_001)


def address_of(number: int) -> str:
    """Of a network of its own."""
    return f"/ip4/{20 + number % 180}.{number // 180}.0.1/tcp/1"


class Swarm:
    """The overlay of one node, and which of the peers it knows answer."""

    def __init__(self) -> None:
        self.book = PeerBook(OWN)
        self.live: set[bytes] = set()
        self.connected: dict[bytes, float] = {}  # and when
        self.overlay = Overlay(
            self.book,
            limits.HOME.target_peers,
            dial=self._dial,
            connected=self.connected.keys,
            excluded=lambda _: False,
            dialled=self.connected.__len__,
            waits=OpenWaits(),
        )

    async def _dial(self, peer: bytes) -> None:
        if peer not in self.live:
            await trio.sleep(limits.DIAL_S + limits.UPGRADE_S)
            raise RemoteError("no handshake in time", peer=peer)
        await trio.sleep(0.1)
        self.connected[peer] = trio.current_time()
        self.book.connected(peer)
        self.book.succeeded(peer, 5e8)

    def know_old_neighbours(self, count: int) -> list[bytes]:
        """The last ones answered last."""
        peers = [peer_number(number) for number in range(count)]
        for number, peer in enumerate(peers):
            self.book.worked(peer, address_of(number), 4e8 + number)
            self.book.succeeded(peer, 4e8 + number)
        return peers

    async def until(self, condition: Callable[[], bool], at_most_s: float) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.overlay.run)
            with trio.fail_after(at_most_s):
                while not condition():
                    await trio.sleep(0.1)
            nursery.cancel_scope.cancel()


def run(main: Callable[[], Awaitable[None]]) -> None:
    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_scenario_10_two_hundred_silent_old_neighbours_do_not_keep_us_from_a_bootstrap_peer() -> (
    None
):
    async def main() -> None:
        swarm = Swarm()
        swarm.know_old_neighbours(200)
        swarm.book.add_bootstrap(BOOTSTRAP, address_of(500))
        swarm.live.add(BOOTSTRAP)
        await swarm.until(lambda: BOOTSTRAP in swarm.connected, 10.0)

    run(main)


def test_scenario_10_nor_from_those_that_we_only_hear_of() -> None:
    async def main() -> None:
        swarm = Swarm()
        swarm.know_old_neighbours(200)
        for number in range(30):
            swarm.live.add(peer := peer_number(1000 + number))
            swarm.book.learn(peer, [address_of(600 + number)], FROM_DHT, 5e8)
        await swarm.until(lambda: len(swarm.connected) == limits.HOME.target_peers, 30.0)

    run(main)


def test_scenario_10_one_old_neighbour_is_found_while_bootstrap_peers_and_the_others_are_down() -> (
    None
):
    """With hearsay that nobody answers for, too; the one is in the middle of the book."""

    async def main() -> None:
        swarm = Swarm()
        swarm.book.add_bootstrap(BOOTSTRAP, address_of(500))
        neighbour = swarm.know_old_neighbours(100)[50]
        for number in range(100):
            swarm.book.learn(peer_number(1000 + number), [address_of(600 + number)], FROM_DHT, 5e8)
        swarm.live.add(neighbour)
        await swarm.until(lambda: neighbour in swarm.connected, 300.0)

    run(main)
