"""Circuit relay: reaching a peer that listens at nothing, and what a relay lets others use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace

import pytest
import trio
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage
from libp2p.utils.varint import encode_varint_prefixed

from primed.p2p import limits, peerid
from primed.p2p.errors import RemoteError
from primed.p2p.host import Libp2pNetwork
from primed.p2p.identity import Identity
from primed.p2p.reachability import Kind
from primed.p2p.relay import HOP
from primed.p2p.relay.caps import Caps
from primed.p2p.relay.server import RelayServer

from .hosts import ECHO, LOCAL, PROFILE, Inbox, ask, new_network, subscribers, until

pytestmark = pytest.mark.trio
ALONE = replace(PROFILE, target_peers=0)  # dials nobody by itself


def new_relay() -> Libp2pNetwork:
    return new_network(offers_relay=True)


@asynccontextmanager
async def hidden_behind(
    relay: Libp2pNetwork, caller: Libp2pNetwork
) -> AsyncIterator[tuple[Libp2pNetwork, str]]:
    """(a node that listens at nothing and has reserved with the relay, its address)"""
    hidden = new_network(profile=ALONE)
    async with (
        relay.running(["/ip4/127.0.0.1/tcp/0"], []),
        caller.running([LOCAL], []),
        hidden.running([], []),
    ):
        await hidden.connect(relay.listen_addresses()[0])
        await until(lambda: hidden.relay_candidates() == [relay.peer])
        await hidden._running().relays.reserve(relay.peer)
        [address] = hidden.listen_addresses()
        yield hidden, address


async def test_a_peer_that_listens_at_nothing_is_reached_through_a_relay() -> None:
    relay, caller = new_relay(), new_network(profile=ALONE)
    async with hidden_behind(relay, caller) as (hidden, address):
        assert address.endswith(f"/p2p-circuit/p2p/{peerid.to_text(hidden.peer)}")
        assert await caller.connect(address) == hidden.peer
        assert await ask(caller, hidden.peer, b"there" * 9999) == b"there" * 9999
        assert await ask(hidden, caller.peer, b"and back") == b"and back"
        inbox = Inbox(hidden)
        await until(lambda: subscribers(caller) == 1)
        await caller.publish("t", b"gossip")
        await until(lambda: inbox.got == [b"gossip"])
        [info] = [info for info in caller.peers() if info.peer == hidden.peer]
        assert info.relayed and not next(i for i in caller.peers() if i.peer == relay.peer).relayed
        assert relay.traffic.handler_errors == hidden.traffic.handler_errors == 0
        await hidden._hang_up(relay.peer)
        await until(lambda: hidden.listen_addresses() == () and not hidden.peers())


async def test_reservations_are_kept_while_nobody_can_dial_the_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "RELAY_RETRY_S", 0.2)
    monkeypatch.setattr(limits, "REACH_FIRST_S", 0.1)
    relay, hidden = new_relay(), new_network()
    async with relay.running([LOCAL], []), hidden.running([], list(relay.listen_addresses())):
        await until(lambda: hidden.reachability.kind is Kind.RELAYED)
        assert "1 relays" in hidden.reachability.evidence
        assert hidden.listen_addresses()[0].startswith(hidden.reachability.address)
    assert relay.traffic.handler_errors == 0


async def test_scenario_24_bulk_through_a_relay_is_cut_at_its_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "RELAY_BYTES", 300_000)
    relay, caller = new_relay(), new_network(profile=ALONE)
    async with hidden_behind(relay, caller) as (hidden, address):
        await caller.connect(address)
        with pytest.raises(RemoteError), trio.fail_after(10):
            stream = await caller.open_stream(hidden.peer, ECHO)
            for _ in range(100):
                await stream.write_all(bytes(20_000))
                await stream.read_some(limits.READ_BYTES)
        await until(lambda: hidden.peer not in {info.peer for info in caller.peers()})
        await until(lambda: relay.traffic.relayed_bytes > 0)
        assert relay.traffic.relayed_bytes <= 300_000
        assert {info.peer for info in relay.peers()} == {caller.peer, hidden.peer}
        await caller.connect(address)  # a new circuit has new bytes; the rate still holds


async def test_scenario_24_a_circuit_has_its_rate_and_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "RELAY_BURST_BYTES", 20_000.0)
    monkeypatch.setattr(limits, "RELAY_BYTES_PER_S", 40_000.0)
    monkeypatch.setattr(limits, "RELAY_S", 4.0)
    relay, caller = new_relay(), new_network(profile=ALONE)
    async with hidden_behind(relay, caller) as (hidden, address):
        began = trio.current_time()
        await caller.connect(address)
        assert await ask(caller, hidden.peer, bytes(30_000)) == bytes(30_000)
        assert trio.current_time() - began > 60_000 / 40_000 - 0.6  # there and back
        await until(lambda: hidden.peer not in {info.peer for info in caller.peers()}, 6)
        assert trio.current_time() - began > 3.5


async def test_only_who_reserved_is_called_and_only_by_relays_that_it_knows() -> None:
    relay, caller = new_relay(), new_network(profile=ALONE)
    async with hidden_behind(relay, caller) as (hidden, address):
        stranger = new_network(profile=ALONE)
        way = address.rpartition("/p2p/")[0]
        async with stranger.running([], []):
            await stranger.connect(relay.listen_addresses()[0])
            with pytest.raises(RemoteError, match="NO_RESERVATION"):
                await caller.connect(f"{way}/p2p/{peerid.to_text(stranger.peer)}")
        with pytest.raises(RemoteError, match="NO_RESERVATION"):
            await caller.connect(f"{way}/p2p/{peerid.to_text(Identity.generate().peer)}")
        hidden._running().relays.on_gone(relay.peer)  # it does not want this relay any more
        with pytest.raises(RemoteError, match="CONNECTION_FAILED"):
            await caller.connect(address)


async def test_nothing_is_reserved_over_a_circuit() -> None:
    """Or one relay's places could be used up through another."""
    relay, caller = new_relay(), new_network(profile=ALONE)
    async with hidden_behind(relay, caller) as (hidden, address):
        await caller.connect(address)
        inner = hidden._running().host
        RelayServer(inner, list, hidden.traffic, hidden.penalise)
        caller.remember(hidden.peer, ["/ip4/127.0.0.1/tcp/9"])
        with pytest.raises(RemoteError, match="PERMISSION_DENIED"):
            await caller._running().relays.reserve(hidden.peer)


@pytest.mark.parametrize(
    "junk",
    [
        b"\xff" * 30,
        b"\x05junk!",
        encode_varint_prefixed(HopMessage(type=HopMessage.STATUS).SerializeToString()),
        encode_varint_prefixed(b"\x0a" + b"x" * 4000),
    ],
)
async def test_rubbish_at_a_relay_costs_the_sender_and_nobody_else(junk: bytes) -> None:
    relay, caller = new_relay(), new_network(profile=ALONE)
    async with hidden_behind(relay, caller) as (hidden, address):
        stranger = new_network(profile=ALONE)
        async with stranger.running([LOCAL], []):
            await stranger.connect(relay.listen_addresses()[0])
            stream = await stranger.open_stream(relay.peer, HOP)
            await stream.write_all(junk)
            await stream.close()
            with pytest.raises(RemoteError):
                while await stream.read_some(100):
                    pass
                raise RemoteError("ended")
        await caller.connect(address)
        assert await ask(caller, hidden.peer, b"there") == b"there"
        assert relay.traffic.handler_errors == 0


async def test_scenario_24_places_are_counted_in_all_and_by_ip() -> None:
    caps, peers = Caps(), [Identity.generate().peer for _ in range(200)]
    per_ip = limits.RELAY_RESERVATIONS_PER_IP
    assert [caps.reserve(p, "6.6.6.6", 0.0) for p in peers[: per_ip + 2]] == [True] * per_ip + [
        False,
        False,
    ]
    assert caps.reserve(peers[0], "6.6.6.6", 1.0)  # longer
    rest = [caps.reserve(p, f"7.7.7.{n}", 1.0) for n, p in enumerate(peers[10:])]
    assert sum(rest) == limits.RELAY_RESERVATIONS - per_ip
    caps.drop(peers[0])
    assert not caps.holds(peers[0], 1.0) and caps.holds(peers[1], 1.0)
    assert caps.reserve(peers[150], "8.8.8.8", 1.0)
    assert not caps.holds(peers[1], limits.RELAY_RESERVATION_S)

    most = limits.RELAY_CIRCUITS_PER_PEER
    assert [caps.begin("6.6.6.6", peers[n]) for n in range(most + 1)] == [True] * most + [False]
    assert [caps.begin(f"9.9.9.{n}", peers[50]) for n in range(most + 1)] == [True] * most + [False]
    caps.end("9.9.9.1", peers[50])
    assert caps.begin("9.9.9.1", peers[50])
    spread = [caps.begin(f"1.1.1.{n}", peers[60 + n]) for n in range(60)]
    assert sum(spread) == limits.RELAY_CIRCUITS - 2 * most


async def test_only_so_many_are_let_in_over_relays_also_if_all_call_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "RELAYED_IN", 2)
    relay, first = new_relay(), new_network(profile=ALONE)
    callers = [first, *(new_network(profile=ALONE) for _ in range(4))]
    came: list[bytes] = []
    async with AsyncExitStack() as stack:
        hidden, address = await stack.enter_async_context(hidden_behind(relay, first))
        for caller in callers[1:]:
            await stack.enter_async_context(caller.running([LOCAL], []))

        async def call(caller: Libp2pNetwork) -> None:
            with suppress(RemoteError):
                came.append(await caller.connect(address))

        async with trio.open_nursery() as nursery:
            for caller in callers:
                nursery.start_soon(call, caller)
        assert len(came) == 2
        assert len([info for info in hidden.peers() if info.relayed]) == 2
        gone = next(c for c in callers if any(i.peer == hidden.peer for i in c.peers()))
        await gone._hang_up(hidden.peer)
        await until(lambda: len([info for info in hidden.peers() if info.relayed]) == 1)
        late = next(c for c in callers if not any(i.peer == hidden.peer for i in c.peers()))
        await late.connect(address)  # a place that was given back
