"""Transfer: one payload on its way to us. Turns the machine's effects into requests and writes.

Owned by the Shardcast service, which runs it as a task. Leaves come pushed (`push`) or pulled; all
are verified by the store before they count. A full disk is named, waited out and tried again.
"""

from __future__ import annotations

import random
from collections import deque
from pathlib import Path

import trio

from primed.p2p.errors import RemoteError
from primed.p2p.network import Network, PeerId
from primed.protocols.client import Client
from primed.protocols.disk import on_disk
from primed.protocols.limits import (
    LARGE_LEAF_BYTES,
    PAYLOAD_LEAVES_MAX,
    PUSH_MAX_BYTES,
    SHARD_INBOX,
)
from primed.protocols.shardcast.lanes import Lanes
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
from primed.protocols.shardcast.messages import GetHave, Have, Leaves, Shard
from primed.protocols.shardcast.store import PayloadStore
from primed.verify.statements import Payload

TICK_S = 0.25
DISK_RETRY_S = 5.0


class Transfer:
    def __init__(
        self,
        network: Network,
        client: Client[Have | Leaves],
        store: PayloadStore,
        run_id: bytes,
        payload: Payload,
        learner: PeerId,
        rng: random.Random,
        lanes: Lanes,
    ) -> None:
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
        self._looked = Tick(())
        self._looked_at = -1e9
        self._pushed: deque[Shard] = deque(maxlen=SHARD_INBOX)  # overflow is pulled later
        self._events: deque[Event] = deque()
        self._wake = trio.Event()
        self._machine: Download | None = None
        if self.refused:
            self.ended.set()

    @property
    def leaves_here(self) -> int:
        if self.path is not None:
            return self.payload.leaves
        return self._machine.have.total if self._machine else 0

    def push(self, shard: Shard) -> None:
        """A leaf that gossip brought."""
        self._pushed.append(shard)
        self._wake.set()

    def drop(self) -> None:
        """Nobody wants it any more; run() returns, waiters are told."""
        self.refused = self.refused or "the payload was dropped"
        self.ended.set()
        self._wake.set()

    async def run(self) -> None:
        """Until the payload is complete or dropped."""
        while not self.ended.is_set():
            try:
                await self._fetch()
            except* OSError as group:
                self.reason = f"disk: {_first(group)}; trying again"
            if not self.ended.is_set():
                with trio.move_on_after(DISK_RETRY_S):
                    await self.ended.wait()

    async def _fetch(self) -> None:
        have = await on_disk(self._store.open, self.payload)
        is_pushed = self.payload.size_bytes <= PUSH_MAX_BYTES
        machine = self._machine = Download(have, self._rng, is_pushed, trio.current_time())
        self._events.clear()
        async with trio.open_nursery() as nursery:
            while not machine.is_done and not self.ended.is_set():
                for effect in await self._step(machine):
                    nursery.start_soon(self._carry_out, effect)
                self.reason = machine.why()
                with trio.move_on_after(TICK_S):
                    await self._wake.wait()
                self._wake = trio.Event()
            nursery.cancel_scope.cancel()
        if machine.is_done:
            self.path = await on_disk(self._store.finish, self.payload)
            self.reason = "complete"
            self.ended.set()

    async def _step(self, machine: Download) -> list[Effect]:
        while self._pushed:
            shard = self._pushed.popleft()
            if await on_disk(
                self._store.write_leaf, self.payload, shard.index, shard.leaf, shard.path
            ):
                self._events.append(Got(shard.index))
        effects: list[Effect] = []
        while self._events:
            effects += machine.step(self._events.popleft(), trio.current_time())
        return effects + machine.step(self._look_around(), trio.current_time())

    def _look_around(self) -> Tick:
        """Who could be asked. Looked up now and then only: leaves may come by the hundred."""
        if trio.current_time() - self._looked_at >= TICK_S:
            peers = {info.peer for info in self._network.peers()} | {self._learner}
            candidates = sorted(peers - {self._network.peer})
            widths = {peer: self._lanes.width(peer, self.payload) for peer in candidates}
            self._looked, self._looked_at = Tick(tuple(candidates), widths), trio.current_time()
        return self._looked

    async def _carry_out(self, effect: Effect) -> None:
        if isinstance(effect, AskHave):
            self._events.append(await self._ask_have(effect.peer))
        else:
            self._events.append(await self._ask(effect))
        self._wake.set()

    async def _ask_have(self, peer: PeerId) -> HaveIs:
        try:
            answer = await self._client.request(peer, GetHave(self._run_id, self.payload))
        except RemoteError:
            return HaveIs(peer, None)
        return HaveIs(peer, answer.bitmap if isinstance(answer, Have) else None)

    async def _ask(self, ask: Ask) -> Answered:
        fetched = await self._lanes.fetch(ask.peer, self.payload, ask.indexes, self._got)
        return Answered(ask.peer, good=fetched.leaves > 0, bad=fetched.is_bad)

    def _got(self, index: int) -> None:
        self._events.append(Got(index))
        self._wake.set()


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


def _why_refused(payload: Payload) -> str:
    """A manifest's author chose these numbers: within our bounds?"""
    if payload.leaf_bytes > LARGE_LEAF_BYTES:
        return f"refused: leaves of {payload.leaf_bytes} bytes"
    if payload.leaves > PAYLOAD_LEAVES_MAX:
        return f"refused: {payload.leaves} leaves"
    return ""
