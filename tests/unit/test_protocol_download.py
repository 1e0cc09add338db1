"""The download machine against lossy, slow, lying, silent and leaving sources: it completes if
somebody honest has every leaf, else it says why not; and it keeps its bounds all the while."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from primed.protocols.limits import (
    FIND_MORE_S,
    FIRST_ANSWER_S,
    LEAVES_PER_REQUEST,
    LIES_MAX,
    PUSH_PATIENCE_S,
    SOURCES_MAX,
)
from primed.protocols.shardcast.bitmap import Bitmap
from primed.protocols.shardcast.machine import (
    Accuse,
    Answered,
    Ask,
    AskHave,
    Download,
    Effect,
    Event,
    FindMore,
    Gained,
    Got,
    HaveIs,
    Tick,
)

TICK_S = 0.25


@dataclass
class Source:
    """How one peer behaves: honest | lossy (half its answers fail) | forger (false leaves) | boaster
    (announces what it lacks) | silent | partial | slow."""

    manner: str
    leaves: set[int]


@dataclass
class World:
    """Carries out effects in simulated time."""

    machine: Download
    sources: dict[bytes, Source]
    rng: random.Random
    now: float = 0.0
    order: count[int] = field(default_factory=count)
    in_flight: dict[bytes, set[int]] = field(default_factory=dict)
    asked: list[Ask] = field(default_factory=list)
    accused: set[bytes] = field(default_factory=set)
    searches: int = 0

    def __post_init__(self) -> None:
        self.queue: list[tuple[float, int, Event]] = []

    def later(self, event: Event, delay: float | None = None) -> None:
        delay = self.rng.uniform(0.01, 1) if delay is None else delay
        heapq.heappush(self.queue, (self.now + delay, next(self.order), event))

    def carry_out(self, effects: list[Effect]) -> None:
        known = self.machine._sources.values()
        for index, copies in self.machine._counted.items():
            assert copies == sum(index in source.have for source in known)
        for effect in effects:
            if isinstance(effect, AskHave):
                self.tell(effect, self.sources[effect.peer])
            elif isinstance(effect, Ask):
                self.answer(effect, self.sources[effect.peer])
            elif isinstance(effect, Accuse):
                self.accused.add(effect.peer)
            else:
                self.searches += 1

    def tell(self, ask: AskHave, source: Source) -> None:
        if source.manner != "silent":
            is_boast = source.manner in ("forger", "boaster")
            claimed = range(self.machine.have.count) if is_boast else source.leaves
            self.later(HaveIs(ask.peer, bytes(Bitmap.of(self.machine.have.count, claimed))))

    def answer(self, ask: Ask, source: Source) -> None:
        under_way = self.in_flight.setdefault(ask.peer, set())
        assert ask.indexes and not under_way & set(ask.indexes)
        assert ask.peer not in self.machine.bad
        under_way.update(ask.indexes)
        assert len(under_way) <= LEAVES_PER_REQUEST
        assert sum(map(bool, self.in_flight.values())) <= SOURCES_MAX
        self.asked.append(ask)
        if source.manner == "forger":
            self.later(Answered(ask, 0, bad=True))
        elif source.manner == "boaster":
            self.later(Answered(ask, 0, lacks=ask.indexes))
        elif source.manner == "lossy" and self.rng.random() < 0.5:
            self.later(Answered(ask, 0))
        elif source.manner != "silent":
            self.give(ask, source)

    def give(self, ask: Ask, source: Source) -> None:
        delay = self.rng.uniform(0.01, 1) * (20 if source.manner == "slow" else 1)
        given = [index for index in ask.indexes if index in source.leaves]
        for index in given:
            self.later(Got(index, ask.peer), delay)
        lacks = tuple(index for index in ask.indexes if index not in source.leaves)
        self.later(Answered(ask, len(given), lacks=lacks), delay)

    def run(self, seconds: float) -> bool:
        while self.now < seconds and not self.machine.is_done:
            while self.queue and self.queue[0][0] <= self.now:
                self.happen(heapq.heappop(self.queue)[2])
            self.forget_silent()
            self.carry_out(self.machine.step(Tick(tuple(self.sources)), self.now))
            self.now += TICK_S
        return self.machine.is_done

    def happen(self, event: Event) -> None:
        if isinstance(event, Answered):
            self.in_flight[event.ask.peer] -= set(event.ask.indexes)
        elif isinstance(event, Got):
            for indexes in self.in_flight.values():
                indexes.discard(event.index)
        self.carry_out(self.machine.step(event, self.now))

    def forget_silent(self) -> None:
        """The machine gives up on silent ones by itself; then they are no longer in flight."""
        for peer, source in self.sources.items():
            if source.manner == "silent":
                self.in_flight.pop(peer, None)


def peer(number: int) -> bytes:
    return b"peer%03d" % number


MANNERS = ["honest", "lossy", "forger", "boaster", "silent", "partial", "slow"]
FALSE = ("forger", "boaster")


@given(st.lists(st.sampled_from(MANNERS), max_size=12), st.integers(1, 60), st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_it_completes_if_the_leaves_are_there_and_else_says_why(
    manners: list[str], leaves: int, seed: int
) -> None:
    rng = random.Random(seed)
    sources: dict[bytes, Source] = {}
    for number, manner in enumerate(manners):
        share = 0.5 if manner == "partial" else 1.0
        here = {index for index in range(leaves) if rng.random() < share}
        sources[peer(number)] = Source(manner, here)
    machine = Download(Bitmap(leaves), rng, False, 0.0)
    world = World(machine, sources, rng)
    useful = [s.leaves for s in sources.values() if s.manner not in (*FALSE, "silent")]
    done = world.run(900.0)
    assert done == (set().union(*useful) == set(range(leaves)))
    assert machine.bad <= {p for p, s in sources.items() if s.manner in FALSE}
    assert world.accused <= {p for p, s in sources.items() if s.manner == "boaster"}
    why = machine.why()
    assert why == "complete" if done else "missing" in why
    if not done:
        assert world.searches > 10
        assert "no peer is connected" in why or sources


def test_pushed_payloads_are_not_pulled_while_leaves_keep_coming() -> None:
    machine = Download(Bitmap(6), random.Random(1), True, 0.0)
    sources = {peer(1): Source("honest", set(range(6)))}
    world = World(machine, sources, random.Random(2))
    for index in range(4):
        world.now += 1.0
        machine.step(Got(index), world.now)
        assert machine.step(Tick(tuple(sources)), world.now) == []
        assert "waiting for pushed leaves" in machine.why()
    world.now += PUSH_PATIENCE_S
    began = world.now
    assert world.run(began + 10)
    assert world.now - began < 4
    assert sum(len(ask.indexes) for ask in world.asked) == 2


def told(machine: Download, number: int, leaves: range, now: float = 0.1) -> list[Effect]:
    """A peer says that it has these."""
    return machine.step(HaveIs(peer(number), bytes(Bitmap.of(machine.have.count, leaves))), now)


def asks(effects: list[Effect]) -> list[Ask]:
    return [effect for effect in effects if isinstance(effect, Ask)]


def test_the_rarest_leaf_is_asked_for_first() -> None:
    machine = Download(Bitmap(12), random.Random(3), False, 0.0)
    machine.step(Tick((peer(1), peer(2), peer(3))), 0.0)
    told(machine, 1, range(11))
    told(machine, 2, range(11))
    (ask,) = asks(told(machine, 3, range(12)))
    assert ask.peer == peer(3) and ask.indexes[0] == 11


def test_what_is_announced_is_asked_for_at_once_also_if_it_overtakes_the_first_answer() -> None:
    machine = Download(Bitmap(3), random.Random(3), False, 0.0)
    machine.step(Tick((peer(1),)), 0.0)
    assert not machine.step(Gained(peer(1), (2, 7)), 0.1)
    (first,) = asks(told(machine, 1, range(0)))
    assert first.indexes == (2,)
    (second,) = asks(machine.step(Gained(peer(1), (0,)), 0.2) + machine.step(Got(2), 0.3))
    assert second.indexes == (0,)


def test_a_silent_source_is_doubled_after_seconds_and_given_up_after_half_a_minute() -> None:
    machine = Download(Bitmap(300), random.Random(3), False, 0.0)
    peers = (peer(1), peer(2))
    machine.step(Tick(peers), 0.0)
    assert asks(told(machine, 1, range(1)))
    assert not asks(told(machine, 2, range(1)))
    assert not asks(machine.step(Tick(peers), FIRST_ANSWER_S))
    (again,) = asks(machine.step(Tick(peers), 0.2 + FIRST_ANSWER_S))
    assert again.peer == peer(2) and again.indexes == (0,)
    machine.step(Tick(peers), 36.0)
    effects = machine.step(Tick(peers), 60.0)
    assert {effect.peer for effect in effects if isinstance(effect, AskHave)} == set(peers)


def test_announcements_do_not_make_up_for_leaves_that_do_not_come() -> None:
    machine = Download(Bitmap(300), random.Random(3), False, 0.0)
    peers = (peer(1), peer(2))
    machine.step(Tick(peers), 0.0)
    assert asks(told(machine, 1, range(1)))
    assert not asks(told(machine, 2, range(1)))
    machine.step(Gained(peer(1), (0,)), FIRST_ANSWER_S)
    (again,) = asks(machine.step(Tick(peers), 0.2 + FIRST_ANSWER_S))
    assert again.peer == peer(2) and again.indexes == (0,)


def test_the_last_leaves_are_asked_of_two_sources() -> None:
    machine = Download(Bitmap(3), random.Random(3), False, 0.0)
    machine.step(Tick((peer(1), peer(2), peer(3))), 0.0)
    told(machine, 1, range(1))
    (first,) = asks(told(machine, 2, range(1, 3)))
    assert not asks(told(machine, 3, range(1)))  # another leaf was not asked for yet
    effects = machine.step(Got(first.indexes[0], peer(2)), 0.2)
    assert {(ask.peer, ask.indexes) for ask in asks(effects)} == {
        (peer(2), (3 - first.indexes[0],)),
        (peer(3), (0,)),
    }


def test_a_peer_that_announces_what_it_lacks_is_found_out() -> None:
    machine = Download(Bitmap(40), random.Random(3), False, 0.0)
    machine.step(Tick((peer(1), peer(2))), 0.0)
    now, effects = 0.1, told(machine, 1, range(40))
    for number in range(LIES_MAX):
        (ask,) = asks(effects)
        now += 0.1
        effects = machine.step(Answered(ask, 0, lacks=ask.indexes), now)
        assert (Accuse(peer(1)) in effects) == (number == LIES_MAX - 1)
    assert machine.bad == {peer(1)}
    assert not asks(told(machine, 1, range(40), now))


def test_a_busy_source_is_asked_again_when_it_said() -> None:
    machine = Download(Bitmap(4), random.Random(3), False, 0.0)
    machine.step(Tick((peer(1),)), 0.0)
    (ask,) = asks(told(machine, 1, range(4)))
    assert machine.step(Answered(ask, 0, busy_s=3.0), 1.0) == []
    assert machine.step(Tick((peer(1),)), 3.9) == []
    assert asks(machine.step(Tick((peer(1),)), 4.1))


def test_a_source_that_leaves_frees_its_leaves_at_once() -> None:
    machine = Download(Bitmap(1), random.Random(3), False, 0.0)
    machine.step(Tick((peer(1), peer(2))), 0.0)
    (ask,) = asks(told(machine, 1, range(1)))
    told(machine, 2, range(0))
    machine.step(Tick((peer(2),)), 0.2)
    (again,) = asks(machine.step(Gained(peer(2), (0,)), 0.3))
    assert again.peer == peer(2)
    machine.step(Answered(ask, 1), 0.4)  # late news of one that left: no harm


def test_without_progress_more_peers_are_looked_for_now_and_then() -> None:
    machine = Download(Bitmap(4), random.Random(3), False, 0.0)
    times = [t / 4 for t in range(160) if FindMore() in machine.step(Tick(()), t / 4)]
    assert times[0] == FIND_MORE_S and 2 <= len(times) <= 4


def test_fast_sources_get_more_and_slow_ones_do_not_hold_the_end_up() -> None:
    leaves = 200
    machine = Download(Bitmap(leaves), random.Random(1), False, 0.0)
    everything = set(range(leaves))
    sources = {peer(n): Source("slow" if n < 4 else "honest", everything) for n in range(8)}
    world = World(machine, sources, random.Random(1))
    assert world.run(60.0)
    asked = [ask.peer for ask in world.asked for _ in ask.indexes]
    assert sum(asked.count(peer(n)) for n in range(4)) < 0.2 * leaves
    assert len(asked) <= leaves * 1.1


def test_a_payload_of_256_mib_asks_for_each_leaf_once() -> None:
    """1,024 leaves from 8 sources; duplicates only at the end."""
    leaves = 1024
    machine = Download(Bitmap(leaves), random.Random(1), False, 0.0)
    sources = {peer(n): Source("honest", set(range(leaves))) for n in range(8)}
    world = World(machine, sources, random.Random(1))
    assert world.run(600.0)
    asked = sum(len(ask.indexes) for ask in world.asked)
    assert leaves <= asked <= leaves * 1.02
