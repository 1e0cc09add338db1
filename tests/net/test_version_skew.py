"""Scenario 17: N-1, N and N+1 in one swarm: what they share is spoken, what not is refused in a
sentence; nothing is logged as an error, and nobody loses score for being older or newer."""

from __future__ import annotations

import logging
from functools import partial

import pytest
import trio

from primed.p2p.errors import RemoteError
from primed.p2p.host import Libp2pNetwork
from primed.p2p.identity import Identity
from primed.p2p.network import Network, Stream
from primed.protocols import versions
from primed.protocols.hello import Hello, NodeRecord
from primed.verify.signing import Signer

from .hosts import PROFILE, started, until
from .memory_network import Fabric
from .protocol_samples import NOW_MS

N = "/primed/hello/1"
NEXT = "/primed/hello/2"
OLD, OLDEST = "/primed/events/0", "/primed/hello/0"


def hello_on(node: Network, sign: Signer, protocols: tuple[str, ...]) -> Hello:
    def record() -> NodeRecord:
        return NodeRecord(node.peer, (), protocols, (), (), "", 1, NOW_MS + 3_600_000)

    return Hello(node, record, sign, dict, lambda: NOW_MS)


@pytest.mark.trio
async def test_three_generations_in_one_swarm(
    autojump_clock: trio.abc.Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with trio.open_nursery() as nursery:
        fabric = Fabric(nursery)
        ours, newer, newest = (fabric.node(seed) for seed in (1, 2, 3))
        hello = hello_on(ours, ours.key.sign, versions.SPOKEN)
        hello_on(newer, newer.key.sign, (N, NEXT, "/primed/events/2", "/primed/shardcast/1"))
        newest.handle(NEXT, trio.sleep_forever)  # type: ignore[arg-type]
        nursery.start_soon(hello.run)
        fabric.link(ours, newer)
        fabric.link(ours, newest)
        await trio.sleep(30)
        assert set(hello.records) == {newer.peer}
        text = versions.mismatch(hello.records[newer.peer].protocols)
        assert text == "speaks events 2, we speak 1: this node needs an update of primed"
        assert hello.refusals == {newest.peer: "cannot be reached"}  # no stream of /primed/hello/1
        with pytest.raises(RemoteError) as refused:
            await newest.open_stream(ours.peer, NEXT)
        assert refused.value.penalty == 0
        assert ours.penalties == newer.penalties == newest.penalties == []
        assert ours.handler_errors == newer.handler_errors == newest.handler_errors == []
        fabric.unlink(ours, newest)
        assert hello.refusals == {}
        nursery.cancel_scope.cancel()
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []


def identified(one: Libp2pNetwork, other: Libp2pNetwork) -> bool:
    return bool(one._running().host.protocols_of(other.peer))


@pytest.mark.trio
async def test_three_generations_over_real_hosts(caplog: pytest.LogCaptureFixture) -> None:
    """Streams negotiate; who has no version in common with us stays a peer and keeps its score."""
    caplog.set_level(logging.INFO)
    served: list[bytes] = []

    async def note(stream: Stream) -> None:
        served.append(stream.peer)

    mine, newers = Identity.generate(), Identity.generate()
    ours, newer = (Libp2pNetwork(key, profile=PROFILE) for key in (mine, newers))
    older, newest = (
        Libp2pNetwork(Identity.generate(), profile=PROFILE, member_protocol=only)
        for only in (OLDEST, NEXT)
    )
    hello = hello_on(ours, mine.sign, versions.SPOKEN)
    hello_on(newer, newers.sign, (N, NEXT, OLD))
    for network, protocol in ((newer, NEXT), (newest, NEXT), (older, OLDEST)):
        network.handle(protocol, note)
    async with started(ours, newer, older, newest), trio.open_nursery() as nursery:
        for stranger in (older, newest):  # what the other speaks is known once it is identified
            await until(partial(identified, ours, stranger))
            await until(partial(identified, stranger, ours))
        nursery.start_soon(hello.run)
        await until(lambda: newer.peer in hello.records and len(hello.refusals) == 2)
        text = versions.mismatch(hello.records[newer.peer].protocols)
        assert text == "speaks events 0, we speak 1: that node needs an update of primed"
        for stranger, protocol, version in ((newest, NEXT, 2), (older, OLDEST, 0)):
            said = f"no {N} stream: the peer speaks version {version} of it"
            assert hello.refusals[stranger.peer] == said
            with pytest.raises(RemoteError, match="the peer speaks version 1 of it") as refused:
                await stranger.open_stream(ours.peer, protocol)
            assert refused.value.penalty == 0
        await newest.connect(newer.listen_addresses()[0])
        await (await newest.open_stream(newer.peer, NEXT)).close()
        await until(lambda: served == [newest.peer])
        for network in (ours, newer, older, newest):
            assert network.traffic.handler_errors == 0
            assert {info.score for info in network.peers()} == {0.0}
        nursery.cancel_scope.cancel()
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []


@pytest.mark.parametrize(
    ("theirs", "told"),
    [
        (versions.SPOKEN, ""),
        ((), ""),
        (("/primed/hello/1",), ""),
        (("/primed/hello/1", "/primed/hello/2", "/primed/novel/7"), ""),
        (
            ("/primed/hello/1", "/primed/events/2", "/primed/events/3"),
            "speaks events 2 and 3, we speak 1: this node needs an update of primed",
        ),
        (
            ("/primed/events/0",),
            "speaks events 0, we speak 1: that node needs an update of primed",
        ),
        (("nonsense", "/", "/primed/events/x", "/primed/events/²", "/other/events/2"), ""),
    ],
)
def test_a_mismatch_is_told_in_a_sentence(theirs: tuple[str, ...], told: str) -> None:
    assert versions.mismatch(theirs) == told
