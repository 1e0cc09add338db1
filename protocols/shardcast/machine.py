"""Download: which leaf to ask from whom, next. Pure: time and randomness are passed in, no I/O.

`step(event, now)` takes in what happened and returns what to do. The owner carries the effects out,
reports back, and calls with Tick at least every quarter of a second. Rules (algorithms.md section 6):
wait for pushed leaves, pull after PUSH_PATIENCE_S without progress; ask NEIGHBOURS peers what they
have, and all others when stuck; at most SOURCES_MAX sources, by the rarest leaf that they have, then
by throughput and success, now and then by chance; to each as many leaves at a time as it sends in
ASK_AHEAD_S; rarest leaf first, ties at random. What is overdue, and the last few leaves, are asked
of a second source. Without progress the owner is told to look for more peers. A source that gave a
false leaf, or often lacked what it announced, is never asked again; one that failed rests. Whatever
peers do, the state stays bounded.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

from primed.protocols.limits import (
    ASK_TIMEOUT_S,
    ENDGAME_LEAVES,
    ENDGAME_SHARE,
    EXPLORED,
    FIND_MORE_AGAIN_S,
    FIND_MORE_LATER_S,
    FIND_MORE_S,
    HAVE_REFRESH_S,
    LEAVES_PER_REQUEST,
    LIES_MAX,
    NEIGHBOURS,
    PUSH_PATIENCE_S,
    SOURCES_MAX,
    STUCK_S,
)
from primed.protocols.shardcast.bitmap import Bitmap, bits_of
from primed.protocols.shardcast.sources import Source

SCANNED = 256  # leaves compared for one choice ...
WINDOW_BYTES = 512  # ... in stretches of 4,096, from a random place: bounds the work
DUPLICATES = 2  # requests for one leaf at a time, at most


# ---- events


@dataclass(frozen=True)
class Tick:
    """Time has passed; these peers are connected (or hinted to have the payload), in the order in
    which to make them neighbours: another one at each node. `widths`: how many leaves a request to a peer may name, where that is not LEAVES_PER_REQUEST."""

    peers: tuple[bytes, ...]
    widths: Mapping[bytes, int] = field(default_factory=dict)


@dataclass(frozen=True)
class HaveIs:
    """A peer told what it has; None: it failed to."""

    peer: bytes
    bitmap: bytes | None


@dataclass(frozen=True)
class Gained:
    """A peer announced that it has these leaves, too."""

    peer: bytes
    indexes: tuple[int, ...]


@dataclass(frozen=True)
class Got:
    """A verified leaf is stored; from this peer, or pushed."""

    index: int
    peer: bytes = b""


@dataclass(frozen=True)
class Answered:
    """A request has ended. leaves: how many came of it; bad: one was false; lacks: those that the
    peer said it does not have; busy_s: it asks us to come again then."""

    ask: Ask
    leaves: int
    bad: bool = False
    lacks: tuple[int, ...] = ()
    busy_s: float = 0.0


Event = Tick | HaveIs | Gained | Got | Answered


# ---- effects


@dataclass(frozen=True)
class AskHave:
    peer: bytes


@dataclass(frozen=True)
class Ask:
    peer: bytes
    indexes: tuple[int, ...]
    at: float


@dataclass(frozen=True)
class Accuse:
    """The peer keeps announcing leaves that it then does not have."""

    peer: bytes


@dataclass(frozen=True)
class FindMore:
    """Connected peers cannot help: look for others that have the payload."""


Effect = AskHave | Ask | Accuse | FindMore
Need = Literal["pushed leaves", "asked peers", "a peer", "what peers have", "a holder"]


@dataclass
class Download:
    """State of one payload's download. `have` is what was here at the start."""

    have: Bitmap
    rng: random.Random
    is_pushed: bool  # leaves may come by themselves: be patient before pulling
    now: float
    bad: set[bytes] = field(default_factory=set)  # peers that gave a false leaf, or lied

    def __post_init__(self) -> None:
        self._sources: dict[bytes, Source] = {}
        self._asked: dict[int, set[bytes]] = {}  # leaf -> of whom
        self._busy = Bitmap(self.have.count)  # leaves in _asked
        self._counted: dict[int, int] = {}  # leaf -> sources that have it (`_copies`)
        self._progress_at = self.now
        self._looked_at = -1e9
        self._pulls = not self.is_pushed  # once begun, pulling goes on

    @property
    def is_done(self) -> bool:
        return self.have.is_full

    def step(self, event: Event, now: float) -> list[Effect]:
        """Take in one event; what to do next (nothing more once done)."""
        self.now = now
        effects: list[Effect] = []
        if isinstance(event, Got):
            self._got(event)
        elif isinstance(event, Gained):
            self._gained(event)
        elif isinstance(event, HaveIs):
            self._told(event)
        elif isinstance(event, Answered):
            effects += self._answered(event)
        else:
            self._connected(event)
            self._expire()
        if not self.is_done and self._may_pull():
            effects += [*self._questions(), *self._requests(), *self._search()]
        return effects

    def waits_for(self) -> Need:
        """What has to come next."""
        sources = self._sources.values()
        if not self._may_pull():
            return "pushed leaves"
        if any(source.asked for source in sources):
            return "asked peers"
        if not sources:
            return "a peer"
        is_told = any(source.is_known for source in sources)
        if not is_told and any(source.waits_for_have for source in sources):
            return "what peers have"
        return "a holder"

    def why(self) -> str:
        """One sentence on what the download waits for."""
        if self.is_done:
            return "complete"
        sources = self._sources.values()
        resting = sum(1 for source in sources if source.rests_until > self.now)
        words: dict[Need, str] = {
            "pushed leaves": "waiting for pushed leaves",
            "asked peers": f"pulling from {sum(1 for s in sources if s.asked)} peers",
            "a peer": "no peer is connected",
            "what peers have": "asking peers what they have",
            "a holder": f"none of {len(sources)} peers has them ({resting} failed lately)",
        }
        missing = f"{self.have.count - self.have.total} of {self.have.count} leaves missing"
        return f"{missing}; {words[self.waits_for()]}"

    # ---- events

    def _got(self, event: Got) -> None:
        for peer in self._asked.pop(event.index, ()):
            self._sources[peer].asked.pop(event.index, None)
        self._busy.discard(event.index)
        if source := self._sources.get(event.peer):
            source.heard_at = self.now
        if event.index not in self.have:
            self.have.add(event.index)
            self._progress_at = self.now

    def _gained(self, event: Gained) -> None:
        source = self._sources.get(event.peer)
        if source is None:
            return
        self._claims(source, event.indexes)
        source.is_strange = False
        source.announced_at, source.is_dry = self.now, False

    def _told(self, event: HaveIs) -> None:
        source = self._sources.get(event.peer)
        if source is None:
            return
        source.waits_for_have = False
        if event.bitmap is None:
            self._failed(source)
        else:
            self._claims(source, Bitmap(self.have.count, event.bitmap))
            source.is_strange = not event.bitmap
            source.is_known, source.is_dry = True, False

    def _claims(self, source: Source, indexes: Iterable[int]) -> None:
        """Added to what is known: an announcement may overtake the answer to our question."""
        for index in indexes:
            if index < self.have.count:
                source.have.add(index)
                self._counted.pop(index, None)

    def _answered(self, event: Answered) -> list[Effect]:
        source = self._sources.get(event.ask.peer)
        if source is None:
            return []
        source.requests = max(0, source.requests - 1)
        self._release(event.ask.peer, event.ask.indexes)
        for index in event.lacks:
            source.have.discard(index)
            self._counted.pop(index, None)
        if event.bad:
            self._condemn(event.ask.peer)
        elif event.lacks and not event.leaves:
            source.lies += 1
            source.answered(0, event.ask.at, self.now)
            if source.lies >= LIES_MAX:
                self._condemn(event.ask.peer)
                return [Accuse(event.ask.peer)]
        elif event.busy_s:
            source.rests_until = self.now + event.busy_s
        else:
            source.answered(event.leaves, event.ask.at, self.now)
            if not event.leaves:
                self._failed(source)
        return []

    def _connected(self, tick: Tick) -> None:
        connected = set(tick.peers) - self.bad
        for peer in [peer for peer in self._sources if peer not in connected]:
            self._drop(peer)
        for peer in tick.peers:
            if peer not in self._sources and peer in connected:
                self._sources[peer] = Source(Bitmap(self.have.count))
        for peer, source in self._sources.items():
            source.widest = tick.widths.get(peer, LEAVES_PER_REQUEST)

    def _expire(self) -> None:
        """A source that keeps silent for too long has failed: its leaves are free again."""
        for peer, source in self._sources.items():
            if source.is_silent(self.now):
                self._release(peer, tuple(source.asked))
                source.requests = 0
                source.answered(0, self.now, self.now)
                self._failed(source)
            if source.waits_for_have and self.now - source.asked_have_at > ASK_TIMEOUT_S:
                source.waits_for_have = False
                self._failed(source)

    def _failed(self, source: Source) -> None:
        source.failed(self.now)
        source.have, source.is_known = Bitmap(self.have.count), False  # ask again what it has
        self._counted.clear()

    def _condemn(self, peer: bytes) -> None:
        self.bad.add(peer)
        self._drop(peer)

    def _drop(self, peer: bytes) -> None:
        self._release(peer, tuple(self._sources[peer].asked))
        del self._sources[peer]
        self._counted.clear()

    def _release(self, peer: bytes, indexes: tuple[int, ...]) -> None:
        """These are no longer in flight from this peer."""
        asked = self._sources[peer].asked
        for index in indexes:
            if asked.pop(index, None) is None:
                continue
            self._asked[index].discard(peer)
            if not self._asked[index]:
                del self._asked[index]
                self._busy.discard(index)
                for source in self._sources.values():
                    source.is_dry = False

    # ---- effects

    def _may_pull(self) -> bool:
        self._pulls = self._pulls or self.now - self._progress_at >= PUSH_PATIENCE_S
        return self._pulls

    def _questions(self) -> list[Effect]:
        """Ask peers what they have: first of all, and again when they can give us nothing and are
        silent. Meanwhile they announce what they gain."""
        effects: list[Effect] = []
        near, is_stuck = 0, self.now - self._progress_at >= STUCK_S
        for peer, source in self._sources.items():
            if near >= NEIGHBOURS and not is_stuck:
                break
            near += not source.is_strange
            if source.waits_for_have or source.asked or source.rests_until > self.now:
                continue
            last = max(source.asked_have_at, source.heard_at, source.announced_at)
            is_stale = self.now - last >= HAVE_REFRESH_S and self._is_useless(source)
            if is_stale or not source.is_known:
                source.waits_for_have, source.asked_have_at = True, self.now
                effects.append(AskHave(peer))
        return effects

    def _is_useless(self, source: Source) -> bool:
        return next(self._needed(source, Bitmap(0)), None) is None

    def _requests(self) -> list[Effect]:
        effects: list[Effect] = []
        active = sum(1 for source in self._sources.values() if source.asked)
        for peer, source, fresh in self._ready(active < SOURCES_MAX):
            if not source.asked and active >= SOURCES_MAX:
                continue
            room = source.room()
            indexes = [index for index in fresh if index not in self._busy][:room]
            indexes = indexes or self._fresh(source)[:room] or self._again(peer, source)[:room]
            if indexes:
                active += not source.asked
                effects.append(self._ask(peer, source, tuple(indexes)))
        return effects

    def _ready(self, is_place_free: bool) -> list[tuple[bytes, Source, list[int]]]:
        """Sources that could be asked, and what for: those with the rarest leaves first, of these
        the best; sometimes in random order."""
        ready = [
            (peer, source, self._fresh(source))
            for peer, source in self._sources.items()
            if source.is_known
            and source.rests_until <= self.now
            and (source.asked or is_place_free)
            and source.room()
        ]
        self.rng.shuffle(ready)
        if len(ready) > 1 and self.rng.random() >= EXPLORED:
            ready.sort(key=lambda each: (self._rarity(each[2]), -each[1].merit()))
        return ready

    def _rarity(self, fresh: list[int]) -> int:
        """How many have the rarest leaf that a source could give."""
        return self._copies(fresh[0]) if fresh else len(self._sources)

    def _ask(self, peer: bytes, source: Source, indexes: tuple[int, ...]) -> Ask:
        source.requests += 1
        for index in indexes:
            source.asked[index] = self.now
            self._asked.setdefault(index, set()).add(peer)
            self._busy.add(index)
        return Ask(peer, indexes, self.now)

    def _fresh(self, source: Source) -> list[int]:
        """Leaves that this source has and nobody was asked for, rarest first."""
        if source.is_dry:
            return []
        found = list(islice(self._needed(source, self._busy), SCANNED))
        source.is_dry = not found
        self.rng.shuffle(found)
        found.sort(key=self._copies)
        return found

    def _again(self, peer: bytes, source: Source) -> list[int]:
        """Leaves to ask a second source for: overdue ones, or the last few."""
        if source.asked:
            return []
        missing = self.have.count - self.have.total
        is_end = len(self._asked) >= missing and missing <= max(
            ENDGAME_LEAVES, ENDGAME_SHARE * self.have.count
        )
        return [
            index
            for index, peers in self._asked.items()
            if index in source.have
            and len(peers) < DUPLICATES
            and (is_end or all(self._sources[p].is_late(index, self.now) for p in peers))
        ]

    def _needed(self, source: Source, without: Bitmap) -> Iterator[int]:
        """Missing leaves that the source has, from a random place on, once around."""
        size_bytes = (self.have.count + 7) // 8
        first = self.rng.randrange(size_bytes)
        for low, high in ((first, size_bytes), (0, first)):
            for start in range(low, high, WINDOW_BYTES):
                width = min(WINDOW_BYTES, high - start)
                taken = self.have.window(start, width) | without.window(start, width)
                for bit in bits_of(source.have.window(start, width) & ~taken):
                    yield 8 * start + bit

    def _copies(self, index: int) -> int:
        """How many sources have this leaf; counted when that may have changed."""
        if index not in self._counted:
            has = (index in source.have for source in self._sources.values())
            self._counted[index] = sum(has)
        return self._counted[index]

    def _search(self) -> list[Effect]:
        """When nothing has come for some time."""
        may_help = any(not source.is_strange for source in self._sources.values())
        patience_s = FIND_MORE_LATER_S if may_help else FIND_MORE_S
        is_stuck = self.now - self._progress_at >= patience_s
        if not is_stuck or self.now - self._looked_at < FIND_MORE_AGAIN_S:
            return []
        self._looked_at = self.now
        return [FindMore()]
