"""How a worker gets a batch to two holders, whatever some of those it asks do.

It pushes to as many at once as receipts are missing. Who gives none for longer than the batch's size
explains is out for a while: another is pushed to beside it, one receipt is enough if there is no
other, and the next batches go to it last.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import trio

from primed.p2p import peerid
from primed.p2p.errors import RemoteError
from primed.protocols.limits import MIB
from primed.protocols.rollouts import Rollouts
from primed.training.messages import Generated
from primed.verify.statements import Receipt

RECEIPTS = 2  # with a single possible holder one is enough
AT_ONCE = 4  # pushes, with those that are late
RETRY_S = 1.0
PATIENCE_S, BYTES_PER_S = 5.0, MIB / 8  # a slow line at home, shared by two pushes
OUT_S = 300.0


class Holders:
    """Those that a worker pushes to, and who of them is out."""

    def __init__(self, rollouts: Rollouts) -> None:
        self.rollouts = rollouts
        self._failed: dict[bytes, float] = {}  # holder -> when it last did

    def is_out(self, holder: bytes) -> bool:
        return trio.current_time() < self._failed.get(holder, -OUT_S) + OUT_S

    def in_order(self, holders: list[bytes]) -> list[bytes]:
        """Who is out comes last, first among them who has been for longest."""
        return sorted(holders, key=lambda each: self._failed[each] if self.is_out(each) else -OUT_S)

    def note(self, holder: bytes, *, failed: bool) -> None:
        self._failed = {each: at for each, at in self._failed.items() if self.is_out(each)}
        self._failed.pop(holder, None)
        if failed:
            self._failed[holder] = trio.current_time()


class Push:
    """One batch on its way to holders. `possible`: who may be one now, in order of preference."""

    def __init__(
        self, holders: Holders, made: Generated, possible: Callable[[], list[bytes]]
    ) -> None:
        self.receipts: dict[bytes, Receipt] = {}
        self._holders = holders
        self._made = made
        self._possible = possible
        self._patience_s = PATIENCE_S + made.size_bytes / BYTES_PER_S
        self._under_way: dict[bytes, tuple[float, trio.CancelScope]] = {}  # since when
        self._asked: dict[bytes, float] = {}  # who is not out -> when first
        self._refused: dict[bytes, tuple[str, float]] = {}  # why, and when last
        self._ended = trio.Event()

    async def run(self) -> None:
        """Until there are receipts enough; cancel it to do with those that there are."""
        async with trio.open_nursery() as nursery:
            while (missing := self._wanted() - len(self.receipts)) > 0:
                for holder in self._next(missing):
                    now, scope = trio.current_time(), trio.CancelScope()
                    self._asked.setdefault(holder, now)
                    self._under_way[holder] = now, scope
                    nursery.start_soon(self._push_to, holder, scope)
                with trio.move_on_after(RETRY_S):
                    await self._ended.wait()
                self._ended = trio.Event()
                self._note_late()
            nursery.cancel_scope.cancel()

    def told(self) -> str:
        """How it stands, for status."""
        now = trio.current_time()
        said = [f"{len(self.receipts)} of {self._wanted()} receipts here"]
        for holder, (since, _) in self._under_way.items():
            said.append(f"{peerid.short(holder)}: no receipt for {now - since:.0f} s")
        others = self._refused.keys() - self._under_way.keys() - self.receipts.keys()
        said += sorted(f"{peerid.short(each)}: {self._refused[each][0]}" for each in others)
        return "; ".join(said if len(said) > 1 else [*said, "no other holder is connected"])

    def _wanted(self) -> int:
        """How many receipts are enough now."""
        counted_on = {each for each in self._possible() if not self._holders.is_out(each)}
        return min(RECEIPTS, max(1, len(counted_on | self.receipts.keys())))

    def _next(self, missing: int) -> list[bytes]:
        """Whom to push to now, so that as many as are missing are under way and not late."""
        now = trio.current_time()
        free = [
            each
            for each in self._holders.in_order(self._possible())
            if each not in self.receipts
            and each not in self._under_way
            and (each not in self._refused or now >= self._refused[each][1] + RETRY_S)
        ]
        late = [
            each for each, (since, _) in self._under_way.items() if now > since + self._patience_s
        ]
        chosen = free[: max(0, missing - (len(self._under_way) - len(late)))]
        for holder in late[: max(0, len(self._under_way) + len(chosen) - AT_ONCE)]:
            self._under_way.pop(holder)[1].cancel()
        return chosen

    async def _push_to(self, holder: bytes, scope: trio.CancelScope) -> None:
        made = self._made
        try:
            with scope:
                self.receipts[holder] = await self._holders.rollouts.push(
                    holder, Path(made.path), counter=made.counter, batch=made.batch, root=made.root
                )
                self._holders.note(holder, failed=False)
        except RemoteError as error:
            self._refused[holder] = (error.reason, trio.current_time())
        finally:
            if self._under_way.get(holder, (0.0, None))[1] is scope:
                del self._under_way[holder]
            self._ended.set()

    def _note_late(self) -> None:
        now = trio.current_time()
        for holder, since in list(self._asked.items()):
            if holder in self.receipts:
                del self._asked[holder]
            elif now > since + self._patience_s:
                del self._asked[holder]
                self._holders.note(holder, failed=True)
