"""Reachability by dial-back: what is believed, where a dial may go, and how often."""

from __future__ import annotations

import pytest
import trio

from primed.p2p import limits
from primed.p2p.errors import RemoteError
from primed.p2p.host import Libp2pNetwork
from primed.p2p.identity import Identity
from primed.p2p.network import Stream
from primed.p2p.reach import PROTOCOL, Answer, Outcome, judge
from primed.p2p.reachability import Kind

from .hosts import LOCAL, free_port, new_network, started, until

pytestmark = pytest.mark.trio
PEERS = [Identity.generate().peer for _ in range(3)]


async def identified(network: Libp2pNetwork, count: int) -> None:
    """Until so many peers have told what they speak."""
    await until(lambda: len(network._access.witnesses()) >= count)


async def answer_of(asker: Libp2pNetwork, witness: bytes, port: int) -> bytes:
    stream = await asker.open_stream(witness, PROTOCOL)
    await stream.write_all(port.to_bytes(2, "big"))
    told = b""
    with trio.fail_after(15):
        while more := await stream.read_some(64):
            told += more
    return told


async def test_two_peers_dial_back_and_are_named_as_evidence() -> None:
    one, first, second = new_network(), new_network(), new_network()
    async with first.running([LOCAL], []), second.running([LOCAL], []):
        join = [*first.listen_addresses(), *second.listen_addresses()]
        async with one.running(["/ip4/127.5.0.1/tcp/0"], join):
            await identified(one, 2)
            found = await one._access.reach.measure()
            assert found.kind is Kind.LOCAL  # loopback addresses are nobody's on the internet
            assert f"{found.address}/p2p/" in one.listen_addresses()[0]
            assert found.address.startswith("/ip4/127.5.0.1/tcp/")
            assert "dialled back by" in found.evidence and "can dial" in found.consequence
            await until(lambda: len(one.peers()) == 2)
            assert one.traffic.handler_errors == first.traffic.handler_errors == 0


async def test_a_port_that_nobody_can_dial_is_found_out() -> None:
    one, first, second = new_network(), new_network(), new_network()
    async with started(first, second), one.running([LOCAL], list(first.listen_addresses())):
        await identified(one, 2)
        found = await one._access.reach.measure(free_port())
        assert found.kind is Kind.OUTBOUND and found.address == ""
        assert "could not dial back" in found.evidence


async def test_a_node_that_listens_at_nothing_says_so_and_asks_nobody() -> None:
    hub, worker = new_network(), new_network()
    async with hub.running([LOCAL], []), worker.running([], list(hub.listen_addresses())):
        await until(lambda: len(worker.peers()) == 1)
        found = await worker.measure_reachability()
        assert found.kind is Kind.OUTBOUND and found.evidence == "it listens at no address"
        assert worker.reachability == found


async def test_a_liar_who_claims_to_have_dialled_is_not_believed() -> None:
    one, liar = new_network(), new_network()

    async def lie(stream: Stream) -> None:
        await stream.read_some(2)
        await stream.write_all(b"r203.0.113.7")

    liar.handle(PROTOCOL, lie)
    async with started(one, liar):
        await identified(one, 1)
        assert await one._access.reach.ask(liar.peer, one._access.ports()[0]) is None
        assert (await one._access.reach.measure()).kind is Kind.UNKNOWN
        assert one.reachability.evidence == "it listens on this machine only"


@pytest.mark.parametrize("told", [b"", b"r", b"x127.0.0.1", b"rlocalhost", b"r" + b"9" * 5000])
async def test_any_answer_is_an_answer_or_none(told: bytes) -> None:
    one, odd = new_network(), new_network()

    async def answer(stream: Stream) -> None:
        await stream.read_some(2)
        await stream.write_all(told)

    odd.handle(PROTOCOL, answer)
    async with started(one, odd):
        assert await one._access.reach.ask(odd.peer, 4001) is None
        assert one.traffic.handler_errors == 0


async def test_only_the_ip_the_witness_sees_is_dialled_and_not_often() -> None:
    """Otherwise a node could be made to knock at other people's doors."""
    one, witness = new_network(), new_network()
    knocked: list[str] = []

    async def door(stream: trio.SocketStream) -> None:
        knocked.append(stream.socket.getpeername()[0])
        await stream.send_all(b"\xff" * 100)  # no handshake of ours
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.5.0.1")
        port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, door, [listener])
        async with witness.running([LOCAL], []):
            join = list(witness.listen_addresses())
            async with one.running(["/ip4/127.5.0.1/tcp/0"], join):
                await until(lambda: len(one.peers()) == 1)
                answers = [await answer_of(one, witness.peer, port) for _ in range(6)]
        allowed = int(limits.REACH_PER_IP_BURST)
        assert answers == [b"u127.5.0.1"] * allowed + [b"b127.5.0.1"] * (6 - allowed)
        assert len(knocked) == allowed
        assert witness.traffic.handler_errors == 0
        nursery.cancel_scope.cancel()


async def test_port_zero_and_half_a_request_are_charged() -> None:
    one, witness = new_network(), new_network()
    async with started(witness, one):
        for request in (b"\0\0", b"\1"):
            before = witness.peers()[0].score
            stream = await one.open_stream(witness.peer, PROTOCOL)
            await stream.write_all(request)
            await stream.close()
            with pytest.raises(RemoteError):
                await stream.read_some(1)
            await until(lambda before=before: witness.peers()[0].score < before - 1)  # type: ignore[misc]


def said(number: int, outcome: Outcome, ip: str = "8.8.4.4") -> Answer:
    return Answer(PEERS[number], outcome, ip)


async def test_two_must_agree() -> None:
    yes, no = Outcome.REACHED, Outcome.UNREACHED
    assert judge([said(0, yes)], 1) is None
    assert judge([said(0, yes), said(1, no)], 1) is None
    assert judge([said(0, yes), said(1, yes, "9.9.9.9")], 1) is None
    public = judge([said(0, yes), said(1, no), said(2, yes)], 4101)
    assert public is not None and public.kind is Kind.PUBLIC
    assert public.address == "/ip4/8.8.4.4/tcp/4101"
    local = judge([said(0, yes, "192.168.1.5"), said(1, yes, "192.168.1.5")], 1)
    assert local is not None and local.kind is Kind.LOCAL
    outbound = judge([said(0, no), said(1, no)], 1)
    assert outbound is not None and outbound.kind is Kind.OUTBOUND
