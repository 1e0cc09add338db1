"""js-libp2p as a client of a live daemon: it may ask, and cannot break anything (scenario 21)."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from msgspec import Raw

from primed.node.demo.swarm import LISTEN, LocalNode, LocalSwarm
from primed.node.views import PeersView
from primed.p2p import peerid
from primed.protocols import hello
from primed.protocols.framing import decode, encode
from primed.protocols.hello.messages import ListRuns, RunList, responses
from primed.protocols.rpc import RequestHead, response_heads

from ..daemons.hostile import OURS, Hostile, attacks, framed
from .client import JsError, JsNode, JsProcess, js_process

pytestmark = pytest.mark.timeout(400)  # the first run installs
PATIENCE_S = 30.0


def test_a_js_node_asks_a_daemon_is_charged_for_garbage_and_the_daemon_serves_on(
    tmp_path: Path,
) -> None:
    swarm = LocalSwarm(tmp_path, {"one": (), "other": ()})
    try:
        swarm.start()
        one, other = swarm["one"], swarm["other"]
        pid = one.status().pid
        hostile = trio.run(_talk, one)
        log = (one.paths.logs / "daemon.log").read_text()
        for protocol, peer in hostile.items():
            assert f"{peerid.short(peerid.from_text(peer))} loses" in log, protocol
        status = one.status()
        assert status.pid == pid and status.network.handler_errors == 0
        scores = {peer.peer: peer.score for peer in one.get("peers", PeersView).peers}
        assert scores[other.text] == 0
        assert not set(scores) & set(hostile.values())
    finally:
        swarm.stop()


async def _talk(daemon: LocalNode) -> dict[str, str]:
    """Protocol -> the peer id of who sent garbage on it."""
    hostile = {}
    async with js_process() as js:
        honest = await js.node("honest")
        await honest.call("dial", address=daemon.address())
        await _asks_for_runs(honest, daemon)
        known = await honest.call("known", peer=daemon.text)
        served = [protocol for protocol in OURS if protocol in known["protocols"]]
        assert hello.PROTOCOL in served
        for protocol in served:
            hostile[protocol] = (await _garbage(js, daemon, protocol)).peer
            await _asks_for_runs(honest, daemon)
        assert await honest.call("ping", peer=daemon.text) < 10_000
    friend = Hostile()  # which is none here
    async with friend.network.running([LISTEN], []):
        assert await friend.is_answered(daemon.address())
    return hostile


async def _asks_for_runs(node: JsNode, daemon: LocalNode) -> None:
    request = framed(encode(RequestHead(7, 0, Raw(encode(ListRuns())))))
    answer = await node.say(daemon.text, hello.PROTOCOL, request)
    assert int.from_bytes(answer[:4], "big") == len(answer) - 4
    head = decode(response_heads, answer[4:])
    assert (head.id, head.code) == (7, "ok")
    assert decode(responses, bytes(head.body)) == RunList(())


async def _garbage(js: JsProcess, daemon: LocalNode, protocol: str) -> JsNode:
    """On streams of one protocol, until we are not let in any more."""
    node, rng = await js.node(protocol), random.Random(protocol)
    with trio.fail_after(PATIENCE_S):
        while True:
            for message in attacks(rng):
                try:
                    await node.call("dial", address=daemon.address())
                    await node.say(daemon.text, protocol, message)
                except JsError:
                    pass
            with suppress(JsError):
                await node.call("dial", address=daemon.address())
                await node.call("ping", peer=daemon.text, at_most_s=2)
                continue
            return node
