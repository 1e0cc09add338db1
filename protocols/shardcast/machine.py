"""Download: which leaf to ask from whom, next. Pure: time and randomness are passed in, no I/O.

`step(event, now)` takes in what happened and returns what to do. The owner carries the effects out,
reports back, and calls with Tick at least every quarter of a second. Rules (algorithms, section 6):
wait for pushed leaves, pull after PUSH_PATIENCE_S without progress; at most SOURCES_MAX sources,
a source's width of leaves in flight to it; rarest leaf first, ties at random; when every missing
leaf is asked for, idle sources duplicate the oldest requests. A source that gave a bad leaf is
never asked again; one that failed rests. Whatever peers do, the state stays bounded.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from primed.protocols.limits import (
    ASK_TIMEOUT_S,
    HAVE_REFRESH_S,
    LEAVES_PER_REQUEST,
    PUSH_PATIENCE_S,
    SOURCE_RETRY_S,
    SOURCES_MAX,
)
from primed.protocols.shardcast.bitmap import Bitmap

SCANNED = 256  # leaves compared for one choice: bounds the work on huge payloads
DUPLICATES = 2  # requests for one leaf at a time, at most
SLOWEST_RETRY = 16  # the pause after failures doubles up to this many SOURCE_RETRY_S


# ---- events


@dataclass(frozen=True)
class Tick:
    """Time has passed; these peers are connected (or hinted to have the payload). `widths`: how
    many leaves to ask a peer for at a time, where that is not LEAVES_PER_REQUEST."""

    peers: tuple[bytes, ...]
    widths: Mapping[bytes, int] = field(default_factory=dict)


@dataclass(frozen=True)
class HaveIs:
    """A peer told what it has; None: it failed to."""

    peer: bytes
    bitmap: bytes | None


@dataclass(frozen=True)
class Got:
    """A verified leaf is stored, pushed or pulled."""

    index: int


@dataclass(frozen=True)
class Answered:
    """A request has ended; good says whether at least one leaf came of it, bad that one was
    false."""

    peer: bytes
    good: bool
    bad: bool = False


Event = Tick | HaveIs | Got | Answered


# ---- effects


@dataclass(frozen=True)
class AskHave:
    peer: bytes


@dataclass(frozen=True)
class Ask:
    peer: bytes
    indexes: tuple[int, ...]


Effect = AskHave | Ask


@dataclass
class _Source:
    """A peer that may have leaves."""

    have: Bitmap | None = None
    width: int = LEAVES_PER_REQUEST
    asked_have_at: float = -1e9
    waits_for_have: bool = False
    asked: tuple[int, ...] = ()
    asked_at: float = 0.0
    rests_until: float = -1e9
    failures: int = 0


@dataclass
class Download:
    """State of one payload's download. `have` is what was here at the start."""

    have: Bitmap
    rng: random.Random
    is_pushed: bool  # leaves may come by themselves: be patient before pulling
    now: float
    bad: set[bytes] = field(default_factory=set)  # peers that gave a false leaf

    def __post_init__(self) -> None:
        self._missing = [index for index in range(self.have.count) if index not in self.have]
        self.rng.shuffle(self._missing)
        self._sources: dict[bytes, _Source] = {}
        self._asked: dict[int, int] = {}  # leaf -> requests in flight for it
        self._progress_at = self.now
        self._pulls = not self.is_pushed  # once begun, pulling goes on

    @property
    def is_done(self) -> bool:
        return self.have.is_full

    def step(self, event: Event, now: float) -> list[Effect]:
        """Take in one event; what to do next (nothing more once done)."""
        self.now = now
        if isinstance(event, Got):
            self._got(event.index)
        elif isinstance(event, HaveIs):
            self._told(event)
        elif isinstance(event, Answered):
            self._answered(event)
        else:
            self._connected(event)
        self._expire()
        if self.is_done or not self._may_pull():
            return []
        return [*self._questions(), *self._requests()]

    def why(self) -> str:
        """One sentence on what the download waits for."""
        missing = f"{self.have.count - self.have.total} of {self.have.count} leaves missing"
        if self.is_done:
            return "complete"
        if not self._may_pull():
            return f"{missing}; waiting for pushed leaves"
        if asked := sum(1 for source in self._sources.values() if source.asked):
            return f"{missing}; pulling from {asked} peers"
        if not self._sources:
            return f"{missing}; no peer is connected"
        if any(source.waits_for_have for source in self._sources.values()):
            return f"{missing}; asking peers what they have"
        resting = sum(1 for source in self._sources.values() if source.rests_until > self.now)
        return f"{missing}; none of {len(self._sources)} peers has them ({resting} failed lately)"

    # ---- events

    def _got(self, index: int) -> None:
        if index in self.have:
            return
        self.have.add(index)
        self._progress_at = self.now

    def _told(self, event: HaveIs) -> None:
        source = self._sources.get(event.peer)
        if source is None:
            return
        source.waits_for_have = False
        if event.bitmap is None:
            self._failed(source)
        else:
            source.have = Bitmap(self.have.count, event.bitmap)

    def _answered(self, event: Answered) -> None:
        source = self._sources.get(event.peer)
        if source is None:
            return
        self._release(source)
        if event.bad:
            self.bad.add(event.peer)
            del self._sources[event.peer]
        elif event.good:
            source.failures = 0
        else:
            self._failed(source)

    def _connected(self, tick: Tick) -> None:
        connected = set(tick.peers) - self.bad
        for peer in [peer for peer in self._sources if peer not in connected]:
            self._release(self._sources.pop(peer))
        for peer in sorted(connected - self._sources.keys()):
            self._sources[peer] = _Source()
        for peer, source in self._sources.items():
            source.width = tick.widths.get(peer, LEAVES_PER_REQUEST)

    def _expire(self) -> None:
        """A source that keeps silent for too long has failed: its leaves are free again."""
        for source in self._sources.values():
            if source.asked and self.now - source.asked_at > ASK_TIMEOUT_S:
                self._release(source)
                self._failed(source)
            if source.waits_for_have and self.now - source.asked_have_at > ASK_TIMEOUT_S:
                source.waits_for_have = False
                self._failed(source)

    def _failed(self, source: _Source) -> None:
        source.have = None  # ask again what it has
        source.rests_until = self.now + SOURCE_RETRY_S * min(2**source.failures, SLOWEST_RETRY)
        source.failures = min(source.failures + 1, SLOWEST_RETRY)

    def _release(self, source: _Source) -> None:
        for index in source.asked:
            self._asked[index] -= 1
            if not self._asked[index]:
                del self._asked[index]
        source.asked = ()

    # ---- effects

    def _may_pull(self) -> bool:
        self._pulls = self._pulls or self.now - self._progress_at >= PUSH_PATIENCE_S
        return self._pulls

    def _questions(self) -> list[Effect]:
        """Ask peers what they have: first of all, and again when they can give us nothing."""
        effects: list[Effect] = []
        for peer, source in self._sources.items():
            due = self.now - source.asked_have_at >= HAVE_REFRESH_S
            idle = not source.asked and not source.waits_for_have
            if due and idle and source.rests_until <= self.now and not self._has_needed(source):
                source.waits_for_have, source.asked_have_at = True, self.now
                effects.append(AskHave(peer))
        return effects

    def _has_needed(self, source: _Source) -> bool:
        return next(self._wanted(source), None) is not None

    def _requests(self) -> list[Effect]:
        effects: list[Effect] = []
        ready = [
            (peer, source)
            for peer, source in self._sources.items()
            if source.have is not None and not source.asked and source.rests_until <= self.now
        ]
        self.rng.shuffle(ready)
        for peer, source in ready:
            if sum(1 for other in self._sources.values() if other.asked) >= SOURCES_MAX:
                break
            if indexes := self._choice(source):
                source.asked, source.asked_at = indexes, self.now
                for index in indexes:
                    self._asked[index] = self._asked.get(index, 0) + 1
                effects.append(Ask(peer, indexes))
        return effects

    def _choice(self, source: _Source) -> tuple[int, ...]:
        """The rarest leaves that this source has and nobody was asked for; else duplicates."""
        fresh = list(islice((i for i in self._wanted(source) if i not in self._asked), SCANNED))
        if not fresh and len(self._asked) >= self.have.count - self.have.total:
            twice = (i for i in self._wanted(source) if self._asked.get(i, 0) < DUPLICATES)
            fresh = list(islice(twice, SCANNED))
        fresh.sort(key=self._copies)  # stable: ties stay in the shuffled order of _missing
        return tuple(fresh[: source.width])

    def _wanted(self, source: _Source) -> Iterator[int]:
        """Missing leaves that the source has, in a random order fixed at the start."""
        if len(self._missing) > 2 * (self.have.count - self.have.total):
            self._missing = [i for i in self._missing if i not in self.have]
        have = source.have
        if have is not None:
            yield from (i for i in self._missing if i not in self.have and i in have)

    def _copies(self, index: int) -> int:
        return sum(1 for s in self._sources.values() if s.have is not None and index in s.have)
