"""Transfer: one payload on its way to us. Turns the machine's effects into requests and writes.

Owned by the Shardcast service, which runs it as a task. Leaves come pushed (`push`) or pulled; all
are verified by the store before they count. A full disk is named, waited out and tried again.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import trio

from primed.p2p.errors import MID, RemoteError
from primed.p2p.network import Network, PeerId
from primed.protocols.client import Client
from primed.protocols.disk import on_disk
from primed.protocols.limits import (
    LARGE_LEAF_BYTES,
    PAYLOAD_LEAVES_MAX,
    PROVIDERS_TRIED,
    PUSH_MAX_BYTES,
    SHARD_INBOX,
    SOURCES_MAX,
    STALLED_S,
)
from primed.protocols.shardcast.lanes import Lanes
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
from primed.protocols.shardcast.messages import GetHave, Have, Leaves, Noted, Shard
from primed.protocols.shardcast.neighbours import Neighbours
from primed.protocols.shardcast.pace import Pace
from primed.protocols.shardcast.store import PayloadStore
from primed.verify.digests import digest
from primed.verify.statements import Payload

TICK_S = 0.25
ANNOUNCED_MAX = 64  # announcements that wait for the machine; it asks again for what they said
DISK_RETRY_S = 5.0


@dataclass(frozen=True)
class News:
    """What became of a payload. what: complete, refused (`detail` says why), dropped, stalled
    (`detail` is what did not come, one of a few words), or disk, after an error of it."""

    payload: Payload
    what: Literal["complete", "refused", "dropped", "stalled", "disk"]
    detail: str = ""
    seconds: float = 0.0  # since it was expected
    error: OSError | None = None


Tell = Callable[[News], None]


class Transfer:
    def __init__(
        self,
        network: Network,
        client: Client[Have | Leaves | Noted],
        store: PayloadStore,
        run_id: bytes,
        payload: Payload,
        learner: PeerId,
        rng: random.Random,
        lanes: Lanes,
        neighbours: Neighbours,
        gained: Callable[[], None],
        tell: Tell,
    ) -> None:
        """gained: called when a leaf was stored. tell: hears what becomes of the payload."""
        self.payload = payload
        self.ended = trio.Event()
        self.path: Path | None = None
        self.refused = _why_refused(payload)
        self.reason = self.refused or "not begun"
        self._network = network
        self._client = client
        self._store = store
        self._run_id = run_id
        self._learner = learner
        self._rng = rng
        self._lanes = lanes
        self._neighbours = neighbours
        self._gained = gained
        self._tell_news = tell
        self._began_at = trio.current_time()
        self._moved_at = self._began_at  # when a leaf came, or a stall was told of
        self._pace = Pace()
        self._hinted: set[PeerId] = set()  # peers beyond the connected ones that may have it
        self._looked = Tick(())
        self._looked_at = -1e9
        self._pushed: deque[Shard] = deque(maxlen=SHARD_INBOX)  # overflow is pulled later
        self._events: deque[Event] = deque()
        self._announced = 0  # announcements among them
        self._bad: set[PeerId] = set()  # also after an error of the disk
        self._wake = trio.Event()
        self._machine: Download | None = None
        if self.refused:
            self.ended.set()
            self._news("refused", self.refused)

    @property
    def leaves_here(self) -> int:
        if self.path is not None:
            return self.payload.leaves
        return self._machine.have.total if self._machine else 0

    @property
    def bytes_here(self) -> int:
        return min(self.leaves_here * self.payload.leaf_bytes, self.payload.size_bytes)

    def bytes_per_s(self) -> float:
        """What came in lately."""
        return self._pace.bytes_per_s(self.bytes_here, trio.current_time())

    def tell(self, peer: PeerId, indexes: tuple[int, ...]) -> Noted:
        """A peer announced that it has these leaves, too."""
        if self.ended.is_set():
            return Noted((), is_wanted=False)
        if self._machine is not None and self._announced < ANNOUNCED_MAX:
            self._announced += 1
            self._events.append(Gained(peer, indexes))
            self._wake.set()
        have = self._store.have(self.payload)
        return Noted(tuple(i for i in indexes if have and i in have), is_wanted=True)

    def push(self, shard: Shard) -> None:
        """A leaf that gossip brought."""
        self._pushed.append(shard)
        self._wake.set()

    def drop(self) -> None:
        """Nobody wants it any more; run() returns, waiters are told."""
        if not self.ended.is_set():
            self._news("dropped")
        self.refused = self.refused or "the payload was dropped"
        self.ended.set()
        self._wake.set()

    async def run(self) -> None:
        """Until the payload is complete or dropped."""
        while not self.ended.is_set():
            try:
                await self._fetch()
            except* OSError as group:
                error = _first(group)
                self.reason = f"disk: {error}; trying again"
                self._news("disk", str(error), error)
            if not self.ended.is_set():
                with trio.move_on_after(DISK_RETRY_S):
                    await self.ended.wait()

    async def _fetch(self) -> None:
        have = await on_disk(self._store.open, self.payload)
        is_pushed = self.payload.size_bytes <= PUSH_MAX_BYTES
        machine = self._machine = Download(
            have, self._rng, is_pushed, trio.current_time(), self._bad
        )
        self._events.clear()
        self._announced = 0
        self._gained()  # what was here before
        async with trio.open_nursery() as nursery:
            while not machine.is_done and not self.ended.is_set():
                for effect in await self._step(machine):
                    nursery.start_soon(self._carry_out, effect)
                self.reason = machine.why()
                self._pace.note(self.bytes_here, trio.current_time())
                self._notice_a_stall(machine)
                with trio.move_on_after(TICK_S):
                    await self._wake.wait()
                self._wake = trio.Event()
            nursery.cancel_scope.cancel()
        if machine.is_done:
            self.path = await on_disk(self._store.finish, self.payload)
            self.reason = "complete"
            self.ended.set()
            self._news("complete")

    def _notice_a_stall(self, machine: Download) -> None:
        now = trio.current_time()
        if not machine.is_done and now - self._moved_at >= STALLED_S:
            self._moved_at = now
            self._news("stalled", machine.waits_for())

    def _news(
        self,
        what: Literal["complete", "refused", "dropped", "stalled", "disk"],
        detail: str = "",
        error: OSError | None = None,
    ) -> None:
        seconds = trio.current_time() - self._began_at
        self._tell_news(News(self.payload, what, detail, seconds, error))

    async def _step(self, machine: Download) -> list[Effect]:
        while self._pushed:
            shard = self._pushed.popleft()
            if await on_disk(
                self._store.write_leaf, self.payload, shard.index, shard.leaf, shard.path
            ):
                self._got(b"", shard.index)
        effects: list[Effect] = []
        self._announced = 0
        while self._events:
            effects += machine.step(self._events.popleft(), trio.current_time())
        return effects + machine.step(self._look_around(), trio.current_time())

    def _look_around(self) -> Tick:
        """Who could be asked. Looked up now and then only: leaves may come by the hundred."""
        if trio.current_time() - self._looked_at >= TICK_S:
            candidates = self._candidates()
            widths = {peer: self._lanes.width(peer) for peer in candidates}
            self._looked, self._looked_at = Tick(candidates, widths), trio.current_time()
        return self._looked

    def _candidates(self) -> tuple[PeerId, ...]:
        """The learner, where it is connected or few others are; then connected peers, but not over
        relays for what is large, in an order of our own; then who is said to have the payload."""
        is_large = self.payload.size_bytes > PUSH_MAX_BYTES
        peers = set(self._neighbours.connected())
        if len(peers) < SOURCES_MAX:
            peers.add(self._learner)
        excluded = {self._network.peer, *(self._neighbours.relayed() if is_large else ())}
        near = sorted(peers - excluded, key=self._liking)
        return (*near, *sorted(self._hinted - peers - excluded))

    def _liking(self, peer: PeerId) -> tuple[bool, bytes]:
        drawn = digest("neighbour", self.payload.root, self._network.peer, peer)
        return peer != self._learner, drawn

    async def _carry_out(self, effect: Effect) -> None:
        if isinstance(effect, AskHave):
            self._events.append(await self._ask_have(effect.peer))
        elif isinstance(effect, Ask):
            self._events.append(await self._ask(effect))
        elif isinstance(effect, FindMore):
            await self._find_more()
        elif isinstance(effect, Accuse):
            self._network.penalise(effect.peer, MID, "announces leaves that it lacks")
        self._wake.set()

    async def _find_more(self) -> None:
        """Ask the DHT who has the payload; a few of them by chance, so that all who are stuck do
        not go to one."""
        found = await self._network.find_providers(self.payload.root, 4 * PROVIDERS_TRIED)
        chosen = self._rng.sample(found, min(len(found), PROVIDERS_TRIED))
        for peer, addresses in chosen:
            self._network.remember(peer, addresses)
        self._hinted = {peer for peer, _ in chosen} | {self._learner}

    async def _ask_have(self, peer: PeerId) -> HaveIs:
        try:
            answer = await self._client.request(peer, GetHave(self._run_id, self.payload))
        except RemoteError:
            return HaveIs(peer, None)
        return HaveIs(peer, answer.bitmap if isinstance(answer, Have) else None)

    async def _ask(self, ask: Ask) -> Answered:
        got = partial(self._got, ask.peer)
        fetched = await self._lanes.fetch(ask.peer, self.payload, ask.indexes, got)
        return Answered(ask, fetched.leaves, fetched.is_bad, fetched.lacks, fetched.busy_s)

    def _got(self, peer: PeerId, index: int) -> None:
        self._events.append(Got(index, peer))
        self._moved_at = trio.current_time()
        self._wake.set()
        self._gained()


def _first(group: BaseException) -> OSError:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    assert isinstance(group, OSError)
    return group


def _why_refused(payload: Payload) -> str:
    """A manifest's author chose these numbers: within our bounds?"""
    if payload.leaf_bytes > LARGE_LEAF_BYTES:
        return f"refused: leaves of {payload.leaf_bytes} bytes"
    if payload.leaves > PAYLOAD_LEAVES_MAX:
        return f"refused: {payload.leaves} leaves"
    return ""
