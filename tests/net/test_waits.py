"""Whatever hangs below the roles is found by its name: requests, lookups, dials, pauses."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from primed.node.config import Config
from primed.node.metrics import Metrics
from primed.node.paths import Paths
from primed.node.services import Services
from primed.node.store import Store
from primed.node.supervisor import Supervisor
from primed.node.watchdog import Watchdog
from primed.p2p import limits, peerid
from primed.p2p.bulk.lane import PROTOCOL as BULK_PROTOCOL
from primed.p2p.errors import RemoteError
from primed.p2p.host import Libp2pNetwork
from primed.p2p.identity import Identity
from primed.p2p.network import Stream
from primed.p2p.overlay import Overlay
from primed.p2p.peerbook import TOLD, PeerBook
from primed.p2p.reach import PROTOCOL as REACH_PROTOCOL
from primed.p2p.relay import HOP
from primed.p2p.upnp import PortMapper
from primed.p2p.waits import OpenWaits, said
from primed.protocols import events, hello
from primed.protocols.by_run import RunServers
from primed.protocols.client import Client
from primed.protocols.disk import inline
from primed.protocols.hello.messages import ListRuns, responses
from primed.protocols.limits import CLIENT_STREAM_S, VISIT_MAX_S

from .hosts import LOCAL, new_network, started, until
from .memory_network import Fabric, MemoryNetwork
from .protocol_samples import NOW_MS, RUN, MemoryEvents

pytestmark = pytest.mark.trio


@pytest.fixture
def no_threads() -> Iterator[None]:
    """A clock that jumps does not wait for threads."""
    with inline():
        yield


async def silence(stream: Stream) -> None:
    """A peer that takes requests and says nothing."""
    await trio.sleep_forever()


def services_of(network: MemoryNetwork, folder: Path) -> Services:
    paths = Paths(folder)
    paths.logs.mkdir()
    return Services(
        config=Config(data_dir=folder),
        paths=paths,
        identity=Identity.generate(),
        store=Store(paths.database),
        network=network,
        servers=RunServers(network),
        supervisor=Supervisor(paths.logs),
        metrics=Metrics(),
    )


def shown(waits: OpenWaits) -> dict[str, str]:
    """What is open, by name."""
    return {wait.name: said(wait.waiting_for) for wait in waits.open()}


async def test_a_request_that_hangs_is_shown_and_waits_for_a_stream_have_an_end(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    failures: list[str] = []

    async def ask() -> None:
        try:
            await client.request(other.peer, ListRuns(), wait_s=1000.0)
        except RemoteError as error:
            failures.append(f"{trio.current_time() - began:.0f} s: {error.reason}")

    async with trio.open_nursery() as nursery:
        fabric = Fabric(nursery)
        us, other = fabric.node(1), fabric.node(2)
        other.handle(hello.PROTOCOL, silence)
        fabric.link(us, other)
        services, client = services_of(us, tmp_path), Client(us, hello.PROTOCOL, responses)
        began = trio.current_time()
        for _ in range(3):
            nursery.start_soon(ask)
        await trio.sleep(1.0)
        whom = f"peer {peerid.short(other.peer)}"
        views = [view for view in services.waits.views() if view.waiting_for == whom]
        assert sorted(view.name for view in views) == [
            *2 * [f"an answer, {hello.PROTOCOL}"],
            f"one of our streams, {hello.PROTOCOL}",
        ]
        assert all(view.since_s == 1.0 for view in views)
        assert [v.deadline_s for v in views if "stream" in v.name] == [CLIENT_STREAM_S - 1]
        await trio.sleep(CLIENT_STREAM_S)
        [failure] = failures
        assert failure == "60 s: our streams to it were busy with other requests for 60 s"
        assert not us.penalties
        nursery.cancel_scope.cancel()
    assert not services.waits.views()


async def test_the_watchdog_finds_a_request_that_outlives_its_time(
    tmp_path: Path,
    autojump_clock: trio.testing.MockClock,
    no_threads: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def hang(self: object, *args: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(Client, "_round_trip", hang)  # a bug of ours: it forgets its deadlines
    async with trio.open_nursery() as nursery:
        fabric = Fabric(nursery)
        us, other = fabric.node(1), fabric.node(2)
        other.handle(hello.PROTOCOL, silence)
        fabric.link(us, other)
        services, client = services_of(us, tmp_path), Client(us, hello.PROTOCOL, responses)
        nursery.start_soon(client.request, other.peer, ListRuns())
        nursery.start_soon(Watchdog(services.waits, services.problems, services.paths.logs).run)
        await trio.sleep(1.0)
        [view] = services.waits.views()
        await trio.sleep(2 * view.deadline_s)
        assert not services.problems.views()
        await trio.sleep(20.0)
        [problem] = services.problems.views()
        assert f"the wait for an answer, {hello.PROTOCOL}" in problem.what
        nursery.cancel_scope.cancel()


async def test_a_peer_that_drags_out_a_comparison_of_events_is_left_for_another(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, no_threads: None
) -> None:
    asked: list[bytes] = []

    async def drag(peer: bytes) -> None:
        asked.append(peer)
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        fabric = Fabric(nursery)
        us, other = fabric.node(1), fabric.node(2)
        key, rng = us.key, random.Random(1)
        log = events.EventLog(
            RunServers(us), MemoryEvents(), RUN, key.peer, key.sign, lambda: NOW_MS, rng
        )
        monkeypatch.setattr(log._sync, "with_peer", drag)
        nursery.start_soon(log.run)
        await trio.testing.wait_all_tasks_blocked()
        fabric.link(us, other)
        await trio.sleep(1.0)
        name = f"events of run {RUN.hex()[:8]}"
        assert shown(us.waits) == {name: f"what peer {peerid.short(other.peer)} has"}
        await trio.sleep(VISIT_MAX_S)
        assert asked == 2 * [other.peer]
        nursery.cancel_scope.cancel()


async def test_the_pause_of_a_service_that_failed_is_shown(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async def fail() -> None:
        raise ValueError("no")

    async with trio.open_nursery() as nursery:
        services = services_of(Fabric(nursery).node(1), tmp_path)
        nursery.start_soon(services.keep_running, "hello", fail)
        await trio.sleep(1.5)  # the second pause, of 2 s
        [view] = services.waits.views()
        assert (view.name, view.deadline_s) == ("the hello service", 1.5)
        assert view.waiting_for == "its next start: it failed"
        nursery.cancel_scope.cancel()


async def test_a_dial_under_way_is_shown(autojump_clock: trio.testing.MockClock) -> None:
    own, other = Identity.generate().peer, Identity.generate().peer
    waits, book = OpenWaits(), PeerBook(own)
    book.learn(other, ["/ip4/192.0.2.1/tcp/4101"], TOLD)

    async def dial(peer: bytes) -> None:
        await trio.sleep_forever()

    overlay = Overlay(
        book,
        8,
        waits=waits,
        dial=dial,
        connected=list,
        excluded=lambda peer: False,
        dialled=lambda: 0,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(overlay.run)
        await trio.sleep(3.0)
        assert shown(waits) == {"a connection": f"peer {peerid.short(other)}"}
        nursery.cancel_scope.cancel()
    assert not waits.open()


async def test_a_lookup_in_the_dht_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(*args: object) -> None:
        await trio.sleep_forever()

    network = new_network()
    async with network.running([LOCAL], []), trio.open_nursery() as nursery:
        routing = network._running().discovery.dht.peer_routing
        monkeypatch.setattr(routing, "find_closest_peers_network", hang)
        nursery.start_soon(network.find_providers, bytes(32), 1)
        await until(lambda: shown(network.waits) == {"the DHT": "who provides what is missing"})
        [wait] = network.waits.open()
        assert wait.timeout_s == limits.DHT_CALL_S
        nursery.cancel_scope.cancel()


async def test_a_dial_back_is_shown_and_a_search_for_a_router(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def hang(self: PortMapper, port: int) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(PortMapper, "_find", hang)
    one = Libp2pNetwork(Identity.generate(), upnp=True)
    other = new_network()
    other.handle(REACH_PROTOCOL, silence)
    monkeypatch.setattr(one._access, "_why_no_mapping", lambda: "")
    async with started(other, one), trio.open_nursery() as nursery:
        await until(lambda: bool(one._access.witnesses()))
        nursery.start_soon(one.measure_reachability)
        await until(lambda: "a dial back" in shown(one.waits))
        await other._hang_up(one.peer)
        await until(lambda: "a port of the router" in shown(one.waits))
        nursery.cancel_scope.cancel()


async def test_a_conversation_that_is_asked_for_is_shown_and_a_place_at_a_relay() -> None:
    one, other = new_network(), new_network()
    for protocol in (BULK_PROTOCOL, HOP):
        other._handlers.set(protocol, silence)
    async with started(other, one), trio.open_nursery() as nursery:
        await until(lambda: not one._bulk.why_not(other.peer))
        nursery.start_soon(one.bulk.converse, other.peer, "nothing", id)
        nursery.start_soon(one._running().relays.reserve, other.peer)
        whom = f"peer {peerid.short(other.peer)}"
        expected = {"a bulk conversation": whom, "a place at a relay": whom}
        await until(lambda: expected.items() <= shown(one.waits).items())
        nursery.cancel_scope.cancel()
    assert not one.waits.open()
