"""The simulated network by itself: what it carries, what it breaks, and that a seed repeats it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest
import trio

from primed.p2p import limits, peerid
from primed.p2p.errors import RemoteError
from primed.p2p.network import Acceptance, Stream
from primed.p2p.simnet import Access, Host, SimNetwork, World, run

ECHO, TOPIC = "/echo/1", "t"


def new_node(world: World, number: int, **fields: object) -> SimNetwork:
    peer = peerid.of_public_key(random.Random(f"key {number}").randbytes(32))
    address = f"/ip4/10.0.0.{number + 1}/tcp/4101"
    host = world.add(Host(f"n{number}", peer, address, **fields))  # type: ignore[arg-type]
    network = SimNetwork(world, host)
    network.handle(ECHO, echo)
    return network


async def echo(stream: Stream) -> None:
    while data := await stream.read_some(limits.READ_BYTES):
        await stream.write_all(data)


async def ask(network: SimNetwork, peer: bytes, data: bytes) -> bytes:
    stream = await network.open_stream(peer, ECHO)
    await stream.write_all(data)
    answer = b""
    while len(answer) < len(data):
        answer += await stream.read_some(limits.READ_BYTES)
    await stream.close()
    return answer


@asynccontextmanager
async def started(
    world: World, networks: Sequence[SimNetwork], bootstrap: Sequence[int] = (0,)
) -> AsyncIterator[None]:
    """All running at once; each knows the bootstrap nodes of these numbers."""
    known = [networks[number].listen_addresses()[0] for number in bootstrap]
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        nursery.start_soon(world.run)
        for network in networks:
            await stack.enter_async_context(network.running([], known))
        yield
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool], at_most_s: float = 60.0) -> float:
    began = trio.current_time()
    with trio.fail_after(at_most_s):
        while not condition():
            await trio.sleep(0.1)
    return trio.current_time() - began


def component(networks: Sequence[SimNetwork]) -> int:
    """Nodes that the first one reaches over connections."""
    by_peer = {network.peer: network for network in networks}
    reached, frontier = {networks[0].peer}, [networks[0].peer]
    while frontier:
        for peer in by_peer[frontier.pop()].connected():
            if peer not in reached:
                reached.add(peer)
                frontier.append(peer)
    return len(reached)


def test_bytes_take_the_time_of_latency_and_bandwidth() -> None:
    async def main() -> float:
        world = World(1)
        line = Access(latency_s=0.05, jitter_s=0.0, bytes_per_s=100_000)
        networks = [new_node(world, number, access=line) for number in range(2)]
        async with started(world, networks):
            await until(lambda: bool(networks[1].connected()))
            began = trio.current_time()
            data = random.Random(0).randbytes(200_000)
            assert await ask(networks[1], networks[0].peer, data) == data
            return trio.current_time() - began

    # 200 kB there and back at 100 kB/s, a piece comes back while the next is on its way
    assert 2.5 < run(main, seed=1) < 5.0


def answers_in(line: Access, count: int = 100, size_bytes: int = 3) -> list[float]:
    """How long so many questions, one after the other, wait for their echo."""

    async def main() -> list[float]:
        world = World(1)
        asker, answerer = new_node(world, 0, access=line), new_node(world, 1, access=line)
        waits = []
        async with started(world, [asker, answerer]):
            await until(lambda: bool(asker.connected()))
            stream = await asker.open_stream(answerer.peer, ECHO)
            for _ in range(count):
                began, question = trio.current_time(), world.rng.randbytes(size_bytes)
                await stream.write_all(question)
                answer = b""
                while len(answer) < size_bytes:
                    answer += await stream.read_some(limits.READ_BYTES)
                assert answer == question
                waits.append(trio.current_time() - began)
        return waits

    return run(main, seed=1)


def test_lost_packets_are_sent_again_a_while_later_and_slow_the_line_down() -> None:
    clean = Access(latency_s=0.02, jitter_s=0.0)
    lossy = replace(clean, loss=0.05)
    assert max(answers_in(clean)) < 0.12
    late = [wait for wait in answers_in(lossy) if wait > 0.12]
    assert 15 <= len(late) <= 60  # of 100 that cross four lines each
    assert all(0.27 < wait < 0.6 for wait in late)
    assert answers_in(clean, 1, 300_000)[0] < 1.0
    assert answers_in(lossy, 1, 300_000)[0] > 3.0  # Mathis: 95 kB/s


def test_jitter_makes_equal_messages_take_unequal_times() -> None:
    steady = Access(latency_s=0.02, jitter_s=0.0)
    assert max(answers_in(steady)) - min(answers_in(steady)) < 0.011  # the grid of 10 ms
    shaken = answers_in(replace(steady, jitter_s=0.05))
    assert min(shaken) >= min(answers_in(steady)) - 0.001
    assert 0.1 < max(shaken) - min(shaken) <= 0.2 + 0.03  # two lines there, two back


def test_a_hop_that_loses_gossip_loses_its_share() -> None:
    async def main() -> int:
        world, inbox = World(1, gossip_loss=0.3), list[bytes]()
        sender, receiver = new_node(world, 0), new_node(world, 1)
        receiver.subscribe(TOPIC, lambda *_: Acceptance.ACCEPT, partial(_keep, inbox))
        async with started(world, [sender, receiver]):
            await trio.sleep(5)
            for number in range(200):
                await sender.publish(TOPIC, b"%d" % number)
            await trio.sleep(5)
        return len(inbox)

    assert 120 <= run(main, seed=1) <= 160


def test_a_clock_that_is_wrong_is_the_hosts_own() -> None:
    async def main() -> tuple[float, float]:
        world = World(1)
        both = [new_node(world, 0), new_node(world, 1, clock_skew_s=3600.0)]
        async with started(world, both):
            await until(lambda: bool(both[0].connected()))
            at_right, at_ahead = (
                row.seen_unix_s for network in both for row in network.memory().addresses
            )
            shown_ms = [world.unix_ms(network.peer) for network in both]
            return at_ahead - at_right, shown_ms[1] - shown_ms[0]

    noted_s, shown_ms = run(main, seed=1)
    assert shown_ms == 3_600_000
    assert noted_s == pytest.approx(3600.0, abs=1.0)  # when they first heard of each other


def test_a_seed_always_gives_the_same_trace_and_another_seed_another() -> None:
    async def main(seed: int) -> str:
        world = World(seed, gossip_loss=0.1)
        networks = [new_node(world, number) for number in range(6)]
        for network in networks:
            network.subscribe(TOPIC, lambda *_: Acceptance.ACCEPT, lambda *_: None)
        async with started(world, networks):
            await trio.sleep(20)
            world.part({networks[1].peer: 1, networks[2].peer: 1})
            for number in range(20):
                await networks[number % 6].publish(TOPIC, b"%d" % number)
                await trio.sleep(2)
            world.heal()
            await trio.sleep(30)
            return world.trace.digest()

    digests = [run(main, seed, seed=seed) for seed in (7, 7, 8)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    "seed",
    [pytest.param(n, marks=[pytest.mark.slow] if n >= 20 else []) for n in range(1000)],
)
def test_scenario_9_peers_started_together_with_one_bootstrap_become_one_component(
    seed: int,
) -> None:
    async def main() -> float:
        world = World(seed)
        networks = [new_node(world, number) for number in range(4)]
        async with started(world, networks):
            return await until(lambda: component(networks) == 4, 30.0)

    run(main, seed=seed)


@pytest.mark.parametrize("seed", range(5))
def test_scenario_9_nodes_that_know_different_bootstrap_peers_find_each_other(seed: int) -> None:
    """Only node 3 knows both bootstrap peers; at the end all are well connected."""

    async def main() -> None:
        world, rng = World(seed), random.Random(seed)
        networks = [new_node(world, number) for number in range(10)]
        known = [[0], [1], [0], [0, 1], *([rng.randrange(2)] for _ in range(6))]
        async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
            nursery.start_soon(world.run)
            for network, numbers in zip(networks, known, strict=True):
                given = [networks[number].listen_addresses()[0] for number in numbers]
                await stack.enter_async_context(network.running([], given))
            await until(lambda: component(networks) == 10, 30.0)
            await until(lambda: all(len(network.connected()) >= 6 for network in networks), 120.0)
            nursery.cancel_scope.cancel()

    run(main, seed=seed)


def test_scenario_10_without_bootstrap_peers_a_node_waits_and_joins_when_one_comes() -> None:
    async def main() -> None:
        world = World(1)
        first, second = new_node(world, 0), new_node(world, 1)
        async with started(world, [second]):
            second.remember(first.peer, first.listen_addresses())
            await trio.sleep(30)
            assert not second.connected()
            async with first.running([], []):
                await until(lambda: second.connected() == [first.peer])

    run(main, seed=1)


def test_scenario_2_a_frozen_peer_is_given_up_and_comes_back_with_its_score() -> None:
    async def main() -> None:
        world = World(2)
        networks = [new_node(world, number) for number in range(3)]
        async with started(world, networks):
            await until(lambda: all(len(network.connected()) == 2 for network in networks))
            frozen = networks[2].peer
            world.freeze(frozen)
            with pytest.raises(RemoteError, match="in time"):
                await networks[0].open_stream(frozen, ECHO)
            await until(lambda: frozen not in networks[0].connected(), 26.0)
            world.thaw(frozen)
            await until(lambda: all(len(network.connected()) == 2 for network in networks))
            assert networks[0].scores.score(frozen, trio.current_time()) == 0.0
            assert await ask(networks[0], frozen, b"again") == b"again"

    run(main, seed=2)


def test_scenario_8_a_short_partition_delays_a_long_one_disconnects_both_heal() -> None:
    async def main() -> None:
        world = World(3)
        a, b = new_node(world, 0), new_node(world, 1)
        async with started(world, [a, b]):
            await until(lambda: bool(a.connected()))
            stream = await a.open_stream(b.peer, ECHO)
            world.part({b.peer: 1})
            await stream.write_all(b"into the dark")
            await trio.sleep(5)
            world.heal()
            assert await stream.read_some(100) == b"into the dark"
            world.part({b.peer: 1})
            await until(lambda: not a.connected() and not b.connected(), 26.0)
            with pytest.raises(RemoteError):
                await stream.read_some(100)
            world.heal()
            await until(lambda: bool(a.connected()), 60.0)

    run(main, seed=3)


def test_scenario_8_a_home_computer_that_was_cut_off_for_hours_is_back_within_minutes() -> None:
    """It has long backed off from its old neighbours, and they cannot dial it: the first that answers
    says that the fault was ours."""

    async def main() -> None:
        world = World(4)
        public = [new_node(world, number) for number in range(3)]
        home = new_node(world, 3, is_public=False)
        async with started(world, [*public, home]):
            await until(lambda: len(home.connected()) == 3)
            world.part({home.peer: 1})
            await trio.sleep(3 * 3600)
            assert not home.connected()
            world.heal()
            await until(lambda: len(home.connected()) == 3, 120.0)

    run(main, seed=4)


def test_a_stream_that_is_given_up_while_it_opens_ends_at_the_other_end_too() -> None:
    """A frozen peer that comes back says both at once (seed 367)."""

    async def main() -> None:
        world = World(3)
        a, b = new_node(world, 0), new_node(world, 1)
        async with started(world, [a, b]):
            await until(lambda: bool(a.connected()))
            world.freeze(a.peer)
            for _ in range(9):
                with trio.move_on_after(0.5):
                    await a.open_stream(b.peer, ECHO)
            world.thaw(a.peer)
            await trio.sleep(2)
            (connection,) = world.connections.values()
            assert not connection.streams[b.peer] and not connection.streams[a.peer]

    run(main, seed=3)


def test_a_peer_behind_nat_dials_but_is_dialled_over_a_relay_only() -> None:
    async def main() -> None:
        world = World(4)
        relay = new_node(world, 0, is_relay=True)
        hidden = [new_node(world, number, is_public=False) for number in (1, 2)]
        async with started(world, [relay, *hidden]):
            await until(lambda: hidden[1].peer in hidden[0].connected())
            assert await ask(hidden[0], hidden[1].peer, b"hello") == b"hello"
            relay.host.is_relay = False
        lonely = World(5)
        server = new_node(lonely, 0)
        unreachable = new_node(lonely, 1, is_public=False)
        async with started(lonely, [server, unreachable], bootstrap=[1]):
            assert not server.connected()
            with pytest.raises(RemoteError, match="no answer"):
                await server.connect(unreachable.listen_addresses()[0])
            await unreachable.connect(server.listen_addresses()[0])
            assert await ask(server, unreachable.peer, b"back") == b"back"

    run(main, seed=4)


def test_damaged_records_end_connections_and_nothing_wrong_is_read() -> None:
    async def main() -> None:
        world = World(6)
        networks = [new_node(world, 0, access=Access(damage=0.2)), new_node(world, 1)]
        wrong = failed = 0
        async with started(world, networks):
            for _ in range(40):
                await until(lambda: bool(networks[1].connected()))
                data = world.rng.randbytes(300)
                try:
                    wrong += await ask(networks[1], networks[0].peer, data) != data
                except RemoteError:
                    failed += 1
        assert not wrong
        assert failed > 5

    run(main, seed=6)


def test_scenario_28_a_banned_peer_stays_banned_when_it_comes_again() -> None:
    async def main() -> None:
        world = World(7)
        a, b = new_node(world, 0), new_node(world, 1)
        async with started(world, [a, b]):
            await until(lambda: bool(a.connected()))
            a.penalise(b.peer, 50, "a test")
            await until(lambda: not b.connected())
            with pytest.raises(RemoteError, match="turned away"):
                await b.connect(a.listen_addresses()[0])
            await trio.sleep(600)
            assert not a.connected()

    run(main, seed=7)


def test_gossip_reaches_all_once_and_a_rejected_message_stops_and_costs_its_sender() -> None:
    async def main() -> None:
        world = World(8)
        networks = [new_node(world, number) for number in range(12)]
        got: dict[bytes, list[bytes]] = {}

        def judge(sender: bytes, data: bytes) -> Acceptance:
            return Acceptance.REJECT if data == b"bad" else Acceptance.ACCEPT

        for network in networks:
            inbox = got.setdefault(network.peer, [])
            network.subscribe(TOPIC, judge, partial(_keep, inbox))
        async with started(world, networks):
            await trio.sleep(30)
            for number in range(10):
                await networks[number].publish(TOPIC, b"%d" % number)
            await networks[11].publish(TOPIC, b"bad")
            await trio.sleep(5)
        wanted = [b"%d" % number for number in range(10)]
        for network in networks:
            own = {b"%d" % networks.index(network)}
            assert sorted(got[network.peer]) == sorted(set(wanted) - own)
            now = trio.current_time()
            charged = [n for n in networks if n.scores.score(networks[11].peer, now) < 0]
            assert charged
        assert sum(network.traffic.gossip_rejected for network in networks) == len(charged)

    run(main, seed=8)


def test_a_machine_without_power_is_noticed_by_pings_and_its_return_resets_old_connections() -> (
    None
):
    async def main() -> None:
        world = World(9)
        a, b = new_node(world, 0), new_node(world, 1)
        async with started(world, [a]):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_live, b, [a.listen_addresses()[0]])
                await until(lambda: bool(a.connected()))
                world.power_off(b.peer)
                nursery.cancel_scope.cancel()
            assert a.connected() == [b.peer]  # nobody told it
            world.power_on(b.peer)
            await until(lambda: not a.connected(), 2.0)
            again = SimNetwork(world, b.host, remembered=b.memory())
            async with again.running([], []):
                await until(lambda: a.connected() == [b.peer])

    run(main, seed=9)


def _keep(inbox: list[bytes], sender: bytes, data: bytes) -> None:
    inbox.append(data)


async def _live(network: SimNetwork, bootstrap: list[str]) -> None:
    async with network.running([], bootstrap):
        await trio.sleep_forever()
