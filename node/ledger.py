"""A run's ledger on this node: folds each cut as soon as its events are here, and remembers it.

`verify.ledger` holds the rules; this keeps the newest state in memory and in the store, collects
the events after it, and applies the originator's cuts in order. The originator's own node also
proposes them. Folding runs in a thread.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from primed.node.problems import Problems
from primed.node.store import Store
from primed.node.store.ledger import CutRow
from primed.node.waits import Changes
from primed.protocols.disk import on_disk
from primed.verify.ledger import (
    BadCut,
    MissingEvents,
    State,
    check_cut,
    decode_state,
    encode_state,
    genesis,
    propose_cut,
)
from primed.verify.runspec import Run
from primed.verify.statements import Cut, Entry, Head

MISSING_S = 60.0  # events a cut names that are not here after this long are a problem
BRANCH_RETRY_S = 2.0
Branch = Callable[[Head, int, bytes, bytes], Awaitable[list[Entry]]]  # EventLog.branch
STATES_KEPT = 4
_log = structlog.get_logger("primed.ledger")


class LedgerKeeper:
    def __init__(
        self,
        run: Run,
        store: Store,
        changes: Changes,
        problems: Problems,
        branch: Branch,
    ) -> None:
        """branch: gets the events that lead to a head from peers (head, first, its prev, ask)."""
        self.state: State = genesis(run)
        self.forks: dict[bytes, int] = {}  # author -> first forked sequence number
        self._run = run
        self._store = store
        self._changes = changes
        self._cut_came = changes.apart()  # so that not every event wakes who waits for a cut
        self._problems = problems
        self._branch = branch
        self._branches: dict[bytes, list[Entry]] = {}  # author who forked -> what the cut took
        self._listeners: list[Callable[[State], Awaitable[None]]] = []
        self._entries: list[Entry] = []  # after the state's heads
        self._cuts: dict[int, Entry] = {}  # the originator's, not yet applied

    async def load(self) -> None:
        """The newest state from the store, so that only later events are folded."""
        row = await on_disk(self._store.cuts.newest, self._run.run_id)
        if row is not None:
            self.state = await on_disk(decode_state, row.state)

    def on_state(self, listener: Callable[[State], Awaitable[None]]) -> None:
        """Call it with every state that is folded from now on."""
        self._listeners.append(listener)

    def newest_cut(self) -> tuple[int, bytes]:
        """Number and state root: what a commitment made now names."""
        return self.state.number, self.state.root

    def observe(self, entry: Entry) -> None:
        head = self.state.heads.get(entry.author)
        if head is not None and entry.seq <= head.seq:
            return
        self._entries.append(entry)
        body = entry.body
        if not isinstance(body, Cut) or entry.author != self._run.spec.originator:
            return
        if body.number > self.state.number:  # after a restart the applied one comes again
            self._cuts.setdefault(body.number, entry)
            self._cut_came.notify()

    async def run(self) -> None:
        """Apply cuts as they come, until cancelled."""
        while True:
            cut = await self._cut_came.until(
                lambda: self._cuts.get(self.state.number + 1),
                f"cut {self.state.number + 1}",
                "the originator to close the epoch",
                3600.0,
            )
            if cut is not None:
                await self._apply(cut)

    async def _apply(self, cut: Entry) -> None:
        number = self.state.number + 1
        problem = f"ledger-{self._run.run_id.hex()[:8]}"
        try:
            folded = await on_disk(check_cut, self._run, self.state, cut, self._entries_for_cut())
        except MissingEvents as missing:
            if await self._take_branches(cut, {author for author, _, _ in missing.gaps}):
                return
            before = len(self._entries)
            more = await self._changes.until(
                lambda: len(self._entries) > before or None,
                f"events of cut {number}",
                "peers that have them (anti-entropy)",
                MISSING_S,
            )
            if more is None:
                what = f"cut {number} names events that no peer has given us for {MISSING_S:.0f} s"
                self._problems.raise_(
                    problem, what, "check `primed peers`; balances stay at the cut before"
                )
            return
        except BadCut as error:
            del self._cuts[number]
            what = f"the originator's cut was refused: {error}"
            self._problems.raise_(problem, what, "balances stay as they were; tell the originator")
            return
        self._problems.clear(problem)
        await self._adopt(folded, cut.digest)

    def _entries_for_cut(self) -> list[Entry]:
        own = (entry for entry in self._entries if entry.author not in self._branches)
        return [*own, *(entry for branch in self._branches.values() for entry in branch)]

    async def _take_branches(self, cut: Entry, missing: set[bytes]) -> bool:
        """A cut stands that took events of authors who were found to have forked only later. Who
        holds the other branch, or came after the proof, gets those events from peers; whether any
        were got."""
        assert isinstance(cut.body, Cut)
        named = [head for head in cut.body.heads if head.author in missing & self.forks.keys()]
        for head in named:
            last = self.state.heads.get(head.author)
            start, prev = (last.seq + 1, last.digest) if last else (0, self._run.run_id)
            if found := await self._branch(head, start, prev, cut.author):
                self._branches[head.author] = found
        if named and not all(head.author in self._branches for head in named):
            name = f"events of an equivocator in cut {cut.body.number}"
            await self._changes.until(lambda: None, name, "a peer that has them", BRANCH_RETRY_S)
        return bool(named)

    async def _adopt(self, folded: State, event: bytes) -> None:
        row = CutRow(folded.number, folded.root, event, await on_disk(encode_state, folded))
        await on_disk(self._store.cuts.put, self._run.run_id, row)
        oldest = folded.number - STATES_KEPT
        await on_disk(self._store.cuts.forget_states_before, self._run.run_id, oldest)
        self.state = folded
        self._branches.clear()
        self._cuts = {number: cut for number, cut in self._cuts.items() if number > folded.number}
        self._entries = [entry for entry in self._entries if not self._is_folded(entry)]
        for listener in self._listeners:
            await listener(folded)
        _log.info("cut", number=folded.number, root=folded.root.hex()[:16])
        self._changes.notify()

    def _is_folded(self, entry: Entry) -> bool:
        head = self.state.heads.get(entry.author)
        return head is not None and entry.seq <= head.seq

    async def propose(self) -> Cut | None:
        """The next cut over what is here; None if nothing is new or the last one is not applied
        yet. The caller states it; it is then applied like anybody else's."""
        if self._cuts:
            return None
        entries = list(self._entries)
        found = await on_disk(propose_cut, self._run, self.state, entries, dict(self.forks))
        return None if found is None else found[0]
