"""Finding each other: bootstrap peers down, peers of peers, providers, restarts."""

from __future__ import annotations

import socket
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from libp2p.peer.id import ID
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from primed.p2p import limits, peerid
from primed.p2p.host import Libp2pNetwork
from primed.p2p.identity import Identity
from primed.p2p.peerid import to_text

from .hosts import LOCAL, PROFILE, ask, free_port, new_network, started, until

pytestmark = pytest.mark.trio


def _has_peer(network: Libp2pNetwork, peer: bytes) -> bool:
    return peer in {info.peer for info in network.peers()}


async def test_scenario_10_all_bootstrap_peers_down_is_a_state_and_not_an_end() -> None:
    identity, port = Identity.generate(), free_port()
    down = f"/ip4/127.0.0.1/tcp/{port}/p2p/{to_text(identity.peer)}"
    never = f"/ip4/127.0.0.1/tcp/{free_port()}/p2p/{to_text(Identity.generate().peer)}"
    one = new_network()
    async with one.running([LOCAL], [down, never]):
        assert one.state()[0] == "connecting"
        await until(lambda: "retrying" in one.state()[1])
        assert "any of the 2 bootstrap peers" in one.state()[1]
        assert "refused" in one.state()[1]
        relay = new_network(identity=identity)
        async with relay.running([f"/ip4/127.0.0.1/tcp/{port}"], []):
            await until(lambda: one.state() == ("online", "connected to 1 peer"))
            assert await ask(one, relay.peer, b"hello") == b"hello"
        await until(lambda: one.state()[0] == "connecting")


async def test_bootstrap_peers_are_dialled_side_by_side_and_silent_ones_hold_nobody_up() -> None:
    """Three take connections and say nothing. One after the other they would take UPGRADE_S each;
    the live one has the last place among equals."""
    *silent, identity = sorted((Identity.generate() for _ in range(4)), key=lambda one: one.peer)
    relay, one = new_network(identity=identity), new_network()
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        nowhere = f"/ip4/127.0.0.1/tcp/{deaf.getsockname()[1]}/p2p"
        given = [f"{nowhere}/{to_text(of.peer)}" for of in silent]
        async with (
            relay.running([LOCAL], []),
            one.running([LOCAL], [*given, *relay.listen_addresses()]),
        ):
            await until(lambda: _has_peer(one, relay.peer), limits.DIAL_S + 1)


async def test_without_bootstrap_a_node_is_alone_until_somebody_comes() -> None:
    one, other = new_network(), new_network()
    async with one.running([LOCAL], []):
        assert one.state()[0] == "alone"
        async with other.running([LOCAL], list(one.listen_addresses())):
            await until(lambda: one.state()[0] == "online")


async def test_trap_9_two_that_know_only_a_third_find_each_other() -> None:
    relay, one, other = new_network(), new_network(), new_network()
    async with started(relay, one, other):
        await until(lambda: _has_peer(one, other.peer) and _has_peer(other, one.peer))
        assert await ask(one, other.peer, b"hello") == b"hello"


async def test_scenario_10_a_restart_joins_by_cached_peers_while_bootstrap_is_down(
    tmp_path: Path,
) -> None:
    book = tmp_path / "peers.db"
    identity, address = Identity.generate(), f"/ip4/127.0.0.1/tcp/{free_port()}"
    join = [f"{address}/p2p/{to_text(identity.peer)}"]
    relay, friend = new_network(identity=identity), new_network()
    async with friend.running([LOCAL], join):
        async with relay.running([address], []):
            one = new_network(book_path=book)
            async with one.running([LOCAL], join):
                await until(lambda: bool(one._book.addresses_of(friend.peer)))
        again = new_network(book_path=book)
        async with again.running([LOCAL], join):
            await until(lambda: _has_peer(again, friend.peer))


async def test_a_damaged_peer_book_is_only_a_loss(tmp_path: Path) -> None:
    book = tmp_path / "peers.db"
    for content in (b"{" * 999, b"SQLite format 3\0" + b"\xff" * 5000, b"\0" * 300_000):
        book.write_bytes(content)
        async with new_network(book_path=book).running([LOCAL], []):
            pass
        assert book.with_name("peers.db.damaged").read_bytes() == content
        book.unlink()
    book.mkdir()  # nor one that cannot be opened at all
    async with new_network(book_path=book).running([LOCAL], []):
        pass


async def test_a_lost_peer_is_dialled_again() -> None:
    identity = Identity.generate()
    address = f"/ip4/127.0.0.1/tcp/{free_port()}"
    one, other = new_network(identity=identity), new_network()
    async with other.running([LOCAL], [f"{address}/p2p/{to_text(identity.peer)}"]):
        for _ in range(2):
            async with one.running([address], []):
                await until(lambda: _has_peer(other, one.peer))
            await until(lambda: not _has_peer(other, one.peer))


async def test_remembered_addresses_are_dialled() -> None:
    one, other = new_network(), new_network()
    async with one.running([LOCAL], []), other.running([LOCAL], []):
        one.remember(other.peer, other.listen_addresses())
        await until(lambda: _has_peer(one, other.peer))
        assert await one.connect(other.listen_addresses()[0]) == other.peer


async def test_providers_are_found_once_each_and_without_ourselves() -> None:
    relay, one, other, seeker = (new_network() for _ in range(4))
    key = bytes(range(32))
    async with started(relay, one, other, seeker):
        await until(lambda: all(len(n.peers()) == 3 for n in (one, other, seeker)))
        await trio.sleep(1.5)  # identify and the tables settle
        for network in (one, other, one):
            await network.provide(key)
        found = await seeker.find_providers(key, 10)
        assert sorted(peer for peer, _ in found) == sorted([one.peer, other.peer])
        assert all(addresses for _, addresses in found)
        assert [peer for peer, _ in await one.find_providers(key, 10)] == [other.peer]
        assert await seeker.find_providers(bytes(32), 10) == []


async def test_what_is_provided_alone_is_announced_to_those_who_come() -> None:
    one, other = new_network(), new_network()
    key = b"k" * 32
    async with one.running([LOCAL], []):
        await one.provide(key)
        async with other.running([LOCAL], list(one.listen_addresses())):
            found: list[bytes] = []
            with trio.fail_after(15):
                while one.peer not in found:
                    await trio.sleep(0.3)
                    found = [peer for peer, _ in await other.find_providers(key, 5)]


def table_of(network: Libp2pNetwork) -> list[bytes]:
    return [p.to_bytes() for p in network._running().discovery.dht.routing_table.get_peer_ids()]


async def test_only_members_enter_the_routing_table() -> None:
    relay, member = new_network(), new_network()
    stranger = Libp2pNetwork(Identity.generate(), profile=PROFILE)  # serves no hello
    async with started(relay, member, stranger):
        await until(lambda: table_of(relay) == [member.peer])
        await trio.sleep(1.0)
        assert table_of(relay) == [member.peer]


async def test_who_leaves_or_falls_silent_leaves_the_routing_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The library keeps such peers and asks them again and again."""
    monkeypatch.setattr(limits, "PING_INTERVAL_S", 0.2)
    monkeypatch.setattr(limits, "PING_TIMEOUT_S", 1.0)
    one, other, leaves, silent = (new_network() for _ in range(4))
    gone = {leaves.peer, silent.peer}
    async with started(one, other, silent):
        async with leaves.running([LOCAL], list(one.listen_addresses())):
            await until(lambda: gone <= {*table_of(one)} & {*table_of(other)})
        for connection in silent._running().swarm.get_connections():
            deaf = connection.muxed_conn.secured_conn  # type: ignore[attr-defined]
            monkeypatch.setattr(deaf, "write", _swallow)
        async with trio.open_nursery() as nursery:  # it may be dialled again afterwards
            for network in (one, other):
                nursery.start_soon(until, lambda n=network: gone.isdisjoint(table_of(n)), 20)


async def _swallow(data: bytes) -> None:
    await trio.lowlevel.checkpoint()


async def test_taking_in_what_the_dht_told_lets_others_run_between_its_peers() -> None:
    """A thousand strangers that one answer names would hold the loop for half a second."""
    one = new_network()
    async with one.running([LOCAL], []):
        store = one._running().host.get_peerstore()
        for number in range(300):
            peer = ID(peerid.of_public_key(number.to_bytes(32, "big")))
            store.add_addrs(peer, [Multiaddr(f"/ip4/9.{number % 250}.1.1/tcp/1")], 60)
        learnt = [0]

        async def count() -> None:
            while True:
                learnt.append(len(one._book._peers))
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            await one._running().discovery.refresh()
            nursery.cancel_scope.cancel()
        assert learnt[-1] >= 200
        assert max(later - before for before, later in pairwise(learnt)) < 5


async def test_who_looks_for_those_near_its_id_meets_peers_of_peers() -> None:
    """So that two daemons with one key find out, whoever their neighbours are."""
    content = replace(PROFILE, target_peers=1)
    one, between, other = (new_network(profile=content) for _ in range(3))
    async with between.running([LOCAL], []):
        given = list(between.listen_addresses())
        async with one.running([LOCAL], given), other.running([LOCAL], given):
            await until(lambda: len(between.peers()) == 2)
            await trio.sleep(0.5)  # identify
            assert not _has_peer(one, other.peer)
            await one.meet_nearest()
            assert _has_peer(one, other.peer)
