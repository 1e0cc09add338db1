"""Any bytes on any protocol or topic of live daemons cost their sender, and nothing else does
(scenarios 21, 34)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from primed.node.demo.swarm import LocalNode
from primed.node.views import PeersView
from primed.p2p import peerid
from primed.protocols.topics import events_topic, shards_topic

from .books import assert_sound
from .hostile import LIBRARY, OURS, Hostile, on_protocol, on_topic
from .running import RunningSwarm

pytestmark = pytest.mark.timeout(300)


def scores(node: LocalNode) -> dict[str, float]:
    """Of the peers that are connected to a daemon."""
    return {peer.peer: peer.score for peer in node.get("peers", PeersView).peers}


def charged_by(nodes: dict[str, LocalNode]) -> Callable[[bytes], bool]:
    """Whether a peer is connected to all of these and has lost points at each."""

    def is_charged(peer: bytes) -> bool:
        text = peerid.to_text(peer)
        return all(scores(node).get(text, 0.0) < 0 for node in nodes.values())

    return is_charged


def test_hostile_bytes_end_nothing_but_the_hostile_peers_connection(running: RunningSwarm) -> None:
    nodes = running.up()
    addresses = [node.address() for node in nodes.values()]
    before = {name: node.status() for name, node in nodes.items()}
    run, learner = bytes.fromhex(running.run), running["learner"].peer

    async def attack() -> list[Hostile]:
        by_protocol = {p: await on_protocol(addresses, p) for p in (*OURS, *LIBRARY)}
        sent = {protocol: hostile.sent for protocol, hostile in by_protocol.items()}
        assert min(sent.values()) >= 5 * len(nodes), sent
        found = list(by_protocol.values())
        found.append(await on_topic(addresses, events_topic(run), charged_by(nodes)))
        followers = {name: node for name, node in nodes.items() if name != "learner"}
        at = [node.address() for node in followers.values()]
        found.append(await on_topic(at, shards_topic(run, learner), charged_by(followers)))
        return found

    hostile = {peerid.to_text(each.network.peer) for each in trio.run(attack)}
    running.goes_on(*nodes)
    for name, node in nodes.items():
        status = node.status()
        assert status.pid == before[name].pid
        assert status.network.handler_errors == before[name].network.handler_errors
        assert [c.restarts for c in status.children] == [c.restarts for c in before[name].children]
        assert not running.problems(name)
        connected = scores(node)
        assert not hostile & set(connected)
        assert set(connected.values()) == {0.0}  # nobody else pays
    assert_sound(running)
