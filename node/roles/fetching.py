"""How learner and verifier get committed batches from their holders.

A holder is given a time by the batch's size, a worker has one batch on its way at a time and a
holder gives few at a time, so that who is slow delays its own. Who lately took long without giving
one comes last, and all such share the turns of one. Waiting for a turn costs a batch none of its
time.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from primed.p2p import peerid
from primed.p2p.errors import RemoteError
from primed.protocols.limits import CLIENT_STREAMS_PER_PEER, MIB, PEERS_TRACKED
from primed.protocols.rollouts import Rollouts
from primed.verify.cases import Case

AT_ONCE = 16  # batches on their way
HOLDER_S, HOLDER_MAX_S = 20.0, 300.0  # for a small batch, and for any
HOLDER_BYTES_PER_S = MIB / 4  # a slow line at home
LONG_S = 5.0  # who took so long without giving a batch ...
SLOW_S = 600.0  # ... is slow for so long
_SLOW = b""  # whose turns the slow share


def time_for_batch(size_bytes: int) -> float:
    """Seconds within which one holder must have given it."""
    return min(HOLDER_MAX_S, HOLDER_S + size_bytes / HOLDER_BYTES_PER_S)


class Patience:
    """How long others may keep a batch from us, from the first time that it is looked for."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = math.inf

    def start(self) -> None:
        self._end = min(self._end, trio.current_time() + self._seconds)

    @property
    def is_over(self) -> bool:
        return trio.current_time() >= self._end


class Fetches:
    """The batches that one role has on their way."""

    def __init__(self, me: bytes, rollouts: Rollouts) -> None:
        self._me = me
        self._rollouts = rollouts
        self._workers = _Turns(1)
        self._holders = _Turns(CLIENT_STREAMS_PER_PEER)
        self._places = trio.CapacityLimiter(AT_ONCE)
        self._slow: dict[bytes, float] = {}  # holder -> until when

    async def fetch(self, case: Case, patience: Patience, each_s: float = math.inf) -> Path:
        """The batch's file: ours if this node has it, else from its holders, each of which is given
        at most `each_s`. Raises RemoteError that says what each holder answered."""
        batch, answers = case.body.batch, []
        if (held := self._rollouts.path(batch)) is not None:
            patience.start()
            return held
        async with self._workers.turn(case.worker):
            for holder in self._order(case):
                try:
                    return await self._from(holder, case, patience, each_s)
                except RemoteError as error:
                    answers.append(f"{peerid.short(holder)}: {error.reason}")
        raise RemoteError("no holder gave the batch: " + "; ".join(answers))

    def _order(self, case: Case) -> list[bytes]:
        """As in the receipts, but who is slow or has others waiting comes later."""
        others = [each.holder for each in case.body.receipts if each.holder != self._me]
        return sorted(
            others, key=lambda holder: (self._is_slow(holder), self._holders.taken(holder))
        )

    async def _from(self, holder: bytes, case: Case, patience: Patience, each_s: float) -> Path:
        size_bytes = case.body.size_bytes
        within_s = min(each_s, time_for_batch(size_bytes))
        lane = _SLOW if self._is_slow(holder) else holder
        async with self._holders.turn(lane), self._places:
            patience.start()
            began = trio.current_time()
            try:
                with trio.move_on_after(within_s):
                    path = await self._rollouts.fetch(holder, case.body.batch, size_bytes)
                    self._slow.pop(holder, None)
                    return path
                raise RemoteError(f"did not give it within {within_s:.0f} s", peer=holder)
            except RemoteError:
                if trio.current_time() > began + LONG_S:
                    self._note_slow(holder)
                raise

    def _is_slow(self, holder: bytes) -> bool:
        return self._slow.get(holder, 0.0) > trio.current_time()

    def _note_slow(self, holder: bytes) -> None:
        self._slow[holder] = trio.current_time() + SLOW_S
        if len(self._slow) > PEERS_TRACKED:
            del self._slow[next(iter(self._slow))]


class _Turns:
    """So many at a time for each key, in the order in which they came."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._limiters: dict[bytes, trio.CapacityLimiter] = {}

    @asynccontextmanager
    async def turn(self, key: bytes) -> AsyncIterator[None]:
        limiter = self._limiters.setdefault(key, trio.CapacityLimiter(self._at_once))
        try:
            async with limiter:
                yield
        finally:
            if not self.taken(key):
                self._limiters.pop(key, None)

    def taken(self, key: bytes) -> int:
        """How many have a turn or wait for one."""
        limiter = self._limiters.get(key)
        if limiter is None:
            return 0
        return limiter.borrowed_tokens + limiter.statistics().tasks_waiting
