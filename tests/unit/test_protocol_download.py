"""The download machine against lossy, lying, silent and leaving sources: it completes if somebody
honest has every leaf, else it says why not; and it keeps its bounds all the while."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from primed.protocols.limits import LEAVES_PER_REQUEST, PUSH_PATIENCE_S, SOURCES_MAX
from primed.protocols.shardcast.bitmap import Bitmap
from primed.protocols.shardcast.machine import (
    Answered,
    Ask,
    AskHave,
    Download,
    Effect,
    Event,
    Got,
    HaveIs,
    Tick,
)

TICK_S = 0.25


@dataclass
class Source:
    """How one peer behaves: honest | lossy (half its answers fail) | liar | silent | partial."""

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
    in_flight: dict[bytes, int] = field(default_factory=dict)
    asked: list[Ask] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.queue: list[tuple[float, int, Event]] = []

    def later(self, event: Event) -> None:
        heapq.heappush(self.queue, (self.now + self.rng.uniform(0.01, 1), next(self.order), event))

    def carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            source = self.sources[effect.peer]
            if isinstance(effect, AskHave):
                self.tell(effect, source)
            else:
                self.answer(effect, source)

    def tell(self, ask: AskHave, source: Source) -> None:
        if source.manner != "silent":
            bitmap = Bitmap(self.machine.have.count)
            claimed = range(bitmap.count) if source.manner == "liar" else source.leaves
            for index in claimed:
                bitmap.add(index)
            self.later(HaveIs(ask.peer, bytes(bitmap)))

    def answer(self, ask: Ask, source: Source) -> None:
        assert 0 < len(ask.indexes) <= LEAVES_PER_REQUEST
        assert len(set(ask.indexes)) == len(ask.indexes)
        assert ask.peer not in self.in_flight and ask.peer not in self.machine.bad
        self.asked.append(ask)
        self.in_flight[ask.peer] = 1
        assert len(self.in_flight) <= SOURCES_MAX
        if source.manner == "silent":
            return
        if source.manner == "liar":
            return self.later(Answered(ask.peer, good=False, bad=True))
        if source.manner == "lossy" and self.rng.random() < 0.5:
            return self.later(Answered(ask.peer, good=False))
        at = self.now + self.rng.uniform(0.01, 1)
        for index in set(ask.indexes) & source.leaves:
            heapq.heappush(self.queue, (at, next(self.order), Got(index)))
        good = bool(set(ask.indexes) & source.leaves)
        heapq.heappush(self.queue, (at, next(self.order), Answered(ask.peer, good)))

    def run(self, seconds: float) -> bool:
        while self.now < seconds and not self.machine.is_done:
            while self.queue and self.queue[0][0] <= self.now:
                event = heapq.heappop(self.queue)[2]
                if isinstance(event, Answered):
                    self.in_flight.pop(event.peer, None)
                self.carry_out(self.machine.step(event, self.now))
            self.forget_silent()
            self.carry_out(self.machine.step(Tick(tuple(self.sources)), self.now))
            self.now += TICK_S
        return self.machine.is_done

    def forget_silent(self) -> None:
        """The machine gives up on silent ones by itself; then they are no longer in flight."""
        for peer, source in self.sources.items():
            if source.manner == "silent":
                self.in_flight.pop(peer, None)


def peer(number: int) -> bytes:
    return b"peer%03d" % number


MANNERS = ["honest", "lossy", "liar", "silent", "partial"]


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
    useful = [s.leaves for s in sources.values() if s.manner in ("honest", "lossy", "partial")]
    done = world.run(600.0)
    assert done == (set().union(*useful) == set(range(leaves)))
    assert machine.bad <= {p for p, s in sources.items() if s.manner == "liar"}
    why = machine.why()
    assert why == "complete" if done else "missing" in why
    if not done and not sources:
        assert "no peer is connected" in why


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


def test_the_rarest_leaf_is_asked_for_first() -> None:
    machine = Download(Bitmap(12), random.Random(3), False, 0.0)
    everything = Bitmap.full(12)
    common = Bitmap(12)
    for index in range(11):
        common.add(index)
    machine.step(Tick((peer(1), peer(2), peer(3))), 0.0)
    machine.step(HaveIs(peer(1), bytes(common)), 0.1)
    machine.step(HaveIs(peer(2), bytes(common)), 0.1)
    (ask,) = machine.step(HaveIs(peer(3), bytes(everything)), 0.1)
    assert isinstance(ask, Ask) and ask.peer == peer(3) and ask.indexes[0] == 11


def test_a_silent_source_costs_30_s_once_and_its_leaves_go_to_others() -> None:
    machine = Download(Bitmap(4), random.Random(3), False, 0.0)
    machine.step(Tick((peer(1),)), 0.0)
    (ask,) = machine.step(HaveIs(peer(1), bytes(Bitmap.full(4))), 0.1)
    assert isinstance(ask, Ask) and len(ask.indexes) == 4
    (question,) = machine.step(Tick((peer(1), peer(2))), 1.0)
    assert question == AskHave(peer(2))
    (again,) = machine.step(HaveIs(peer(2), bytes(Bitmap.full(4))), 1.1)
    assert isinstance(again, Ask) and again.peer == peer(2)  # all asked for: duplicates
    assert machine.step(Tick((peer(1), peer(2))), 20.0) == []
    effects = machine.step(Tick((peer(1), peer(2))), 32.0)
    assert effects == []  # both failed; they rest
    assert {e.peer for e in machine.step(Tick((peer(1), peer(2))), 35.0)} == {peer(1), peer(2)}


def test_a_source_that_leaves_frees_its_leaves_at_once() -> None:
    machine = Download(Bitmap(4), random.Random(3), False, 0.0)
    machine.step(Tick((peer(1), peer(2))), 0.0)
    machine.step(HaveIs(peer(1), bytes(Bitmap.full(4))), 0.1)
    machine.step(HaveIs(peer(2), b""), 0.1)
    machine.step(Tick((peer(2),)), 0.2)
    effects = machine.step(HaveIs(peer(2), bytes(Bitmap.full(4))), 0.3)
    assert [type(effect) for effect in effects] == [Ask]
    machine.step(Answered(peer(1), good=True), 0.4)  # late news of one that left: no harm


def test_a_payload_of_256_mib_asks_for_each_leaf_once() -> None:
    """1,024 leaves from 8 sources; duplicates only at the end."""
    leaves = 1024
    machine = Download(Bitmap(leaves), random.Random(1), False, 0.0)
    sources = {peer(n): Source("honest", set(range(leaves))) for n in range(8)}
    world = World(machine, sources, random.Random(1))
    assert world.run(600.0)
    asked = sum(len(ask.indexes) for ask in world.asked)
    assert leaves <= asked <= leaves * 1.05
