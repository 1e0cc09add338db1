"""This node's own batches, from the first token to the last word: counters, pacing, `primed rewards`.

Which counters are taken follows from the node's own events. The store's rows add what no event
says: a batch that is being generated, how many tokens it has, and the ledger's last word on it.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from primed.node.store import Store
from primed.node.store.batches import BatchRow
from primed.protocols.disk import on_disk
from primed.training.messages import Generated
from primed.verify.cases import ENDED, Case
from primed.verify.explain import BatchLine, before_commit, explain, skipped
from primed.verify.ledger import Settled, State
from primed.verify.runspec import Run
from primed.verify.statements import Committed, Entry, Skipped
from primed.verify.verdicts import Cases


class Note(Struct, frozen=True, array_like=True):
    """What a row's `detail` holds."""

    tokens: int = 0
    reward_mean: float = 0.0
    commitment: bytes = b""
    settled: Settled | None = None
    reason: str = ""


class OwnBatches:
    def __init__(self, run: Run, me: bytes, store: Store) -> None:
        self.next_counter = 0  # first counter neither committed nor skipped
        self._run = run
        self._me = me
        self._rows = store.batches
        self._unused: dict[int, tuple[bytes, bytes]] = {}  # counter -> commitment, its learner

    # ---- what follows from events ----------------------------------------------------------

    def observe(self, entry: Entry) -> None:
        body = entry.body
        if entry.author == self._me and isinstance(body, Committed | Skipped):
            self.next_counter = max(self.next_counter, body.counter + 1)
            if isinstance(body, Committed):
                self._unused[body.counter] = entry.digest, body.learner

    def observe_case(self, case: Case) -> None:
        is_over = case.used_by or case.state in ENDED or case.state == "inconclusive"
        if case.worker == self._me and is_over:
            self._unused.pop(case.body.counter, None)

    async def take_up(self, cases: Cases) -> None:
        """After the replay at start. Forget what the ledger closed while this node was away; note
        the commitment of a batch that was stated and not noted when the daemon was killed."""
        for row in await on_disk(self._rows.newest, self._run.run_id, 1):
            note, commitment = _note(row), self._unused.get(row.counter, (b"", b""))[0]
            if commitment and not note.commitment:
                note = msgspec.structs.replace(note, commitment=commitment)
                await self._put(row.counter, "committed", row.version, note)
        for counter, (commitment, _) in list(self._unused.items()):
            if cases.case(commitment) is None:
                del self._unused[counter]

    def unused(self, learner: bytes) -> int:
        """Own commitments under way to a learner: neither consumed by a version nor come to an end."""
        return sum(by == learner for _, by in self._unused.values())

    # ---- the notebook ----------------------------------------------------------------------

    async def begin(self, counter: int, version: bytes) -> None:
        await self._put(counter, "generating", version, Note())

    async def stored(self, made: Generated) -> None:
        note = Note(tokens=made.tokens, reward_mean=made.reward_mean)
        await self._put(made.counter, "stored", made.version, note)

    async def committed(self, made: Generated, commitment: bytes) -> None:
        note = Note(made.tokens, made.reward_mean, commitment)
        await self._put(made.counter, "committed", made.version, note)

    async def skipped(self, counter: int, reason: str) -> None:
        await self._put(counter, "skipped", b"", Note(reason=reason))

    async def settle(self, settled: Settled) -> None:
        """The ledger's last word on a batch of ours."""
        row = await on_disk(self._rows.get, self._run.run_id, settled.counter)
        note, version = (_note(row), row.version) if row else (Note(), b"")
        if note.commitment in (b"", settled.commitment):
            note = msgspec.structs.replace(note, commitment=settled.commitment, settled=settled)
            await self._put(settled.counter, settled.state, version, note)

    async def _put(self, counter: int, state: str, version: bytes, note: Note) -> None:
        row = BatchRow(counter, state, version, detail=msgspec.msgpack.encode(note))
        await on_disk(self._rows.put, self._run.run_id, row)

    # ---- telling ---------------------------------------------------------------------------

    async def lines(
        self, state: State, cases: Cases, limit: int
    ) -> list[tuple[BatchLine, BatchRow, Note]]:
        """Newest first."""
        rows = await on_disk(self._rows.newest, self._run.run_id, limit)
        told = ((self._line(row, _note(row), state, cases), row, _note(row)) for row in rows)
        return [(line, row, note) for line, row, note in told if line is not None]

    def _line(self, row: BatchRow, note: Note, state: State, cases: Cases) -> BatchLine | None:
        if row.state == "skipped":
            return skipped(row.counter, note.reason)
        if not note.commitment:
            is_stored = row.state == "stored"
            return before_commit(row.counter, "stored" if is_stored else "generating", note.tokens)
        case = cases.case(note.commitment)
        return explain(self._run, state, note.commitment, case, note.settled)


def _note(row: BatchRow) -> Note:
    return msgspec.msgpack.decode(row.detail, type=Note) if row.detail else Note()
