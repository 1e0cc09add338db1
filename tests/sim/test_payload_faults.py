"""Nodes that die, are slow, silent, lie or hang up while a payload is on its way: whoever lives has it
bit by bit in the end, or says why not; whoever lied is charged, and nobody else."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from functools import partial

import pytest
import trio

from primed.p2p.errors import HIGH, MID
from primed.p2p.network import Stream
from primed.p2p.simnet import Access
from primed.protocols.rpc import Attachment, Refused
from primed.protocols.server import Reply, Server
from primed.protocols.shardcast import PROTOCOL
from primed.protocols.shardcast import messages as wire
from primed.protocols.shardcast.bitmap import Bitmap
from primed.verify.statements import Payload

from .payload_swarm import KIB, LINE, MIB, RUN, Node, PayloadSwarm, play


def test_a_tenth_of_the_nodes_killed_half_way() -> None:
    async def tell(swarm: PayloadSwarm) -> None:
        nodes = swarm.add(20)
        payload = await swarm.publish()
        swarm.expect(payload, nodes[1:])
        await swarm.until(lambda: sum(node.share(payload) for node in nodes[1:]) > 0.5 * 19)
        for victim in nodes[5:7]:
            assert 0 < victim.share(payload) < 1
            await victim.die()
        alive = [node for node in nodes if node.is_up]
        await swarm.until(lambda: all(node.has(payload) for node in alive))
        assert len(alive) == 18 and not swarm.world.penalties

    play(tell)


def test_the_origin_killed_after_each_leaf_has_left_it_once() -> None:
    async def tell(swarm: PayloadSwarm) -> None:
        origin, *others = swarm.add(12)
        payload = await swarm.publish()
        swarm.expect(payload, others)

        def is_out() -> bool:
            held = (node.store.have(payload) for node in others)
            return len({index for have in held if have for index in have}) == payload.leaves

        await swarm.until(is_out)
        assert origin.cast.carried()["streams", "sent"] <= 1.3 * payload.size_bytes
        assert not any(node.has(payload) for node in others)
        await origin.die()
        await swarm.until(lambda: all(node.has(payload) for node in others))

    play(tell)


def test_an_origin_that_dies_too_early_leaves_a_reason() -> None:
    async def tell(swarm: PayloadSwarm) -> None:
        origin, *others = swarm.add(4)
        payload = await swarm.publish()
        swarm.expect(payload, others)
        await swarm.until(lambda: any(node.share(payload) for node in others))
        await origin.die()
        await trio.sleep(60)
        for node in others:
            assert not node.has(payload)
            assert re.search(r"leaves missing; none of \d peers", node.cast.describe(payload))
            assert {news.what for news in node.news} == {"stalled"}
            assert "a holder" in {news.detail for news in node.news}
        swarm.nursery.start_soon(origin.live)
        await swarm.until(lambda: all(node.has(payload) for node in others))

    play(tell)


@pytest.mark.parametrize("kills", [[1, 2, 3], [8, 30, 31]])
def test_scenario_1_a_receiver_killed_at_any_point_resumes_by_its_bitmap(kills: list[int]) -> None:
    """kills: at how many leaves, those of earlier lives included."""

    async def tell(swarm: PayloadSwarm) -> None:
        *_, receiver = swarm.add(3)
        payload = await swarm.publish()
        came_bytes = 0
        for leaves in (*kills, payload.leaves):
            swarm.expect(payload, [receiver])
            await swarm.until(lambda: receiver.share(payload) * payload.leaves >= leaves)  # noqa: B023
            came_bytes += receiver.cast.received_pulled_bytes
            if leaves < payload.leaves:
                await receiver.die()
                swarm.nursery.start_soon(receiver.live)
                await swarm.until(lambda: receiver.is_up)
        await swarm.until(lambda: receiver.has(payload))
        assert receiver.lives == 1 + len(kills)
        assert came_bytes < payload.size_bytes + len(kills) * 4 * payload.leaf_bytes

    play(tell)


# ---- hostile and broken sources


async def never(node: Node, stream: Stream) -> None:
    await trio.sleep_forever()


def silent(node: Node) -> None:
    """Takes questions and answers none."""
    node.network.handle(PROTOCOL, partial(never, node))


async def _hang_up(node: Node, stream: Stream) -> None:
    await stream.read_some(KIB)
    for peer in node.network.connected():
        node.network._connections[peer].close(node.peer, "hangs up")


def hangs_up(node: Node) -> None:
    """Disconnects whenever it is asked for anything."""
    node.network.handle(PROTOCOL, partial(_hang_up, node))


def answering(node: Node, leaves: tuple[wire.Leaf, ...]) -> None:
    """Claims everything; gives these leaves whatever is asked."""

    async def answer(peer: bytes, message: object, _: Attachment) -> Reply:
        if isinstance(message, wire.GetHave):
            return Reply(wire.Have(bytes(Bitmap.full(message.payload.leaves))))
        if isinstance(message, wire.Gained):
            return Reply(wire.Noted((), is_wanted=True))
        return Reply(wire.Leaves(leaves))

    Server(node.network, PROTOCOL, wire.requests, answer)


def forger(node: Node) -> None:
    answering(node, tuple(wire.Leaf(index, bytes(64 * KIB), ()) for index in range(4)))


def boaster(node: Node) -> None:
    answering(node, ())


SLOW = Access(latency_s=0.5, bytes_per_s=4_000.0)


def test_slow_silent_lying_and_disconnecting_sources_hold_nobody_up() -> None:
    async def tell(swarm: PayloadSwarm) -> None:
        (origin, receiver) = swarm.add(2)
        bad = {
            made.__name__: swarm.add(misbehave=made)[0]
            for made in (silent, hangs_up, forger, boaster)
        }
        (slow,) = swarm.add(access=SLOW)
        payload = await swarm.publish()
        assert await swarm.make(slow) == payload
        swarm.expect(payload, [receiver])
        took_s = await swarm.until(lambda: receiver.has(payload))
        alone_s = payload.size_bytes / LINE.bytes_per_s
        assert took_s < 5 * alone_s + 5
        await swarm.until(lambda: swarm.points(bad["forger"].peer) > 0)
        charged = {name: swarm.points(node.peer) for name, node in bad.items()}
        assert charged["forger"] >= HIGH and charged["boaster"] in (0, MID)
        for innocent in (origin, slow, receiver):
            assert swarm.points(innocent.peer) == 0
        assert receiver.cast.amplification() < 1.2

    play(tell)


def test_when_all_sources_lie_it_says_that_nobody_has_it() -> None:
    async def tell(swarm: PayloadSwarm) -> None:
        _, receiver = swarm.add(2)
        liars = [swarm.add(misbehave=made)[0] for made in (forger, boaster)]
        await swarm.until(lambda: all(node.is_up for node in swarm.nodes))
        payload = Payload(bytes(31) + b"x", 2 * MIB, 64 * KIB)
        swarm.expect(payload, [receiver])
        await swarm.until(lambda: all(swarm.points(node.peer) > 0 for node in liars))
        await trio.sleep(30)
        assert receiver.share(payload) == 0
        assert "none of" in receiver.cast.describe(payload)
        assert receiver.news[-1].what == "stalled"

    play(tell)


def test_scenario_6_damaged_lines_cost_connections_and_no_false_bit_is_kept() -> None:
    """A bit in a million wrong towards one of two sources: two of five 64 KiB pieces are hit, and
    each ends its connection, as Noise does."""

    async def tell(swarm: PayloadSwarm) -> None:
        _, receiver = swarm.add(2)
        (bad,) = swarm.add(access=replace(LINE, damage=0.4))
        payload = await swarm.publish()
        assert await swarm.make(bad) == payload
        swarm.expect(payload, [receiver])
        await swarm.until(lambda: receiver.has(payload))
        assert any("damaged record" in line for line in swarm.world.trace.lines())
        assert not swarm.world.penalties  # the wire's fault

    play(tell)


def test_scenario_24_nothing_large_goes_over_a_relay() -> None:
    """Two nodes behind NAT reach each other by a relay, and get the payload from public ones."""

    async def tell(swarm: PayloadSwarm) -> None:
        relay, public = *swarm.add(place="relay"), *swarm.add()
        origin, receiver = swarm.add(2, place="hidden")
        await swarm.until(lambda: all(node.is_up for node in swarm.nodes))
        await swarm.until(lambda: len(receiver.network.connected()) == 3)
        [between] = [i for i in receiver.network.peers() if i.peer == origin.peer]
        assert between.relayed
        payload = await swarm.make(origin)
        swarm.expect(payload, [receiver])
        await trio.sleep(20)
        assert receiver.share(payload) == 0  # of those that it may ask nobody has it
        refusal = None
        try:
            await receiver.cast._talk.request(origin.peer, wire.GetLeaves(RUN, payload, (0,)))
        except Refused as error:
            refusal = error
        assert refusal is not None and refusal.code == "denied"
        swarm.expect(payload, [relay, public])
        await swarm.until(lambda: all(n.has(payload) for n in (relay, public, receiver)))
        assert origin.cast.carried()["streams", "sent"] < 2.2 * payload.size_bytes

    play(tell)


def test_a_swarm_behind_lines_that_lose_packets_is_complete_and_bit_identical() -> None:
    async def tell(swarm: PayloadSwarm) -> None:
        rng = random.Random(2)
        for _ in range(12):
            loss = rng.choice([0.0, 0.01, 0.05])
            rate = rng.choice([200e3, 1e6, 4e6])
            swarm.add(access=Access(rng.uniform(0.01, 0.15), 0.02, loss, rate))
        payload = await swarm.publish()
        swarm.expect(payload, swarm.nodes[1:])
        await swarm.until(lambda: all(node.has(payload) for node in swarm.nodes))
        assert max(node.cast.amplification() for node in swarm.nodes[1:]) < 1.25

    play(tell)
