"""Scenario 17: N-1, N and N+1 in one swarm: what they share is spoken, what not is refused in a
sentence; nothing is logged as an error, and nobody loses score for being older or newer."""

from __future__ import annotations

import logging

import pytest
import trio

from primed.p2p.errors import RemoteError
from primed.protocols import versions
from primed.protocols.hello import Hello, NodeRecord

from .memory_network import Fabric, MemoryNetwork
from .protocol_samples import NOW_MS

N = "/primed/hello/1"
NEXT = "/primed/hello/2"


def hello_on(node: MemoryNetwork, protocols: tuple[str, ...]) -> Hello:
    def record() -> NodeRecord:
        return NodeRecord(node.peer, (), protocols, (), (), "", 1, NOW_MS + 3_600_000)

    return Hello(node, record, node.key.sign, dict, lambda: NOW_MS)


@pytest.mark.trio
async def test_three_generations_in_one_swarm(
    autojump_clock: trio.abc.Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with trio.open_nursery() as nursery:
        fabric = Fabric(nursery)
        ours, newer, newest = (fabric.node(seed) for seed in (1, 2, 3))
        hello = hello_on(ours, versions.SPOKEN)
        hello_on(newer, (N, NEXT, "/primed/events/2", "/primed/shardcast/1"))
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
