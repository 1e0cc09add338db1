"""A working copy of the ledger's tables while one fold runs. Created and sealed by `fold` only."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from primed.verify.decision import Terms
from primed.verify.digests import digest
from primed.verify.ledger.state import (
    Account,
    Batch,
    BatchState,
    Epoch,
    Lot,
    Orphan,
    Settled,
    State,
    UnpaidVersion,
    Version,
    Worker,
    epochs_of,
    open_cuts,
    root_of,
    terms_of,
    worker_of,
)
from primed.verify.runspec import Run
from primed.verify.statements import Head

T = TypeVar("T")


class Book:
    """Mutable tables over immutable records; `number` is the cut being folded."""

    def __init__(self, run: Run, state: State) -> None:
        self.run, self.parameters, self.prices = run, run.spec.parameters, run.spec.prices
        self.before = state
        self.number = state.number + 1
        self.open_cuts = open_cuts(self.parameters)
        self.remaining_micro = state.remaining_micro
        self.heads: dict[bytes, Head] = dict(state.heads)
        self.members = {role: dict(peers) for role, peers in state.members.items()}
        self.epochs: dict[int, Epoch] = epochs_of(state)
        self.accounts: dict[bytes, Account] = dict(state.accounts)
        self.workers: dict[bytes, Worker] = dict(state.workers)
        self.batches: dict[bytes, Batch] = dict(state.batches)
        self.versions: dict[bytes, Version] = dict(state.versions)
        self.newest: dict[bytes, bytes] = dict(state.newest)
        self.unpaid: dict[bytes, UnpaidVersion] = dict(state.unpaid)
        self.lots: dict[bytes, tuple[Lot, ...]] = dict(state.lots)
        self.orphans: list[Orphan] = list(state.orphans)
        self.settled: list[Settled] = []

    def worker(self, peer: bytes) -> Worker:
        return self.workers.get(peer) or worker_of(self.run, self.before, peer)

    def change_worker(self, peer: bytes, **fields: Any) -> None:
        self.workers[peer] = msgspec.structs.replace(self.worker(peer), **fields)

    def change_batch(self, commitment: bytes, **fields: Any) -> None:
        self.batches[commitment] = msgspec.structs.replace(self.batches[commitment], **fields)

    def terms(self, batch: Batch) -> Terms | None:
        """Draw terms of a batch; None if it names a cut that nobody can judge by any more."""
        epoch = self.epochs.get(batch.cut)
        return None if epoch is None else terms_of(epoch, batch.worker, batch.on_probation)

    def close(self, commitment: bytes, state: BatchState, reason: str) -> None:
        """Give a batch its last word."""
        batch = self.batches[commitment]
        self.change_batch(
            commitment,
            state=state,
            reason=reason,
            decided=batch.decided or self.number,
            closed=self.number,
        )
        self.settled.append(
            Settled(
                commitment=commitment,
                worker=batch.worker,
                counter=batch.counter,
                state=state,
                reason=reason,
                tokens=batch.tokens,
                credits_micro=batch.credits_micro,
                cut=self.number,
            )
        )

    def credit(self, peer: bytes, pending: int = 0, final: int = 0, burned: int = 0) -> None:
        account = self.accounts.get(peer) or Account()
        self.accounts[peer] = Account(
            account.final_micro + final,
            account.pending_micro + pending,
            account.burned_micro + burned,
        )

    def seal(self) -> State:
        """The next state, with tables in key order, old rows dropped, and its root."""
        self._forget()
        settled = tuple(sorted(self.settled, key=lambda row: (row.worker, row.counter)))
        history = digest("settled", self.before.history, msgspec.msgpack.encode(settled))
        state = State(
            run_id=self.run.run_id,
            number=self.number,
            remaining_micro=self.remaining_micro,
            heads=_sorted(self.heads),
            members={role: _sorted(peers) for role, peers in sorted(self.members.items())},
            epochs=_sorted(self.epochs),
            accounts=_sorted(self.accounts),
            workers=_sorted(self.workers),
            batches=_sorted(self.batches),
            versions=_sorted(self.versions),
            newest=_sorted(self.newest),
            unpaid=_sorted(self.unpaid),
            lots=_sorted(self.lots),
            orphans=tuple(sorted(self.orphans, key=lambda fact: (fact.author, fact.seq))),
            history=history if settled else self.before.history,
            settled=settled,
        )
        return msgspec.structs.replace(state, root=root_of(state))

    def _forget(self) -> None:
        """Drop what no later event may name: closed batches and old cuts stay `open_cuts` more."""
        oldest = self.number - self.open_cuts
        for commitment in [c for c, b in self.batches.items() if b.closed and b.closed < oldest]:
            del self.batches[commitment]
        for number in [number for number in self.epochs if number < oldest - 4]:
            del self.epochs[number]


def _sorted(table: dict[Any, T]) -> dict[Any, T]:
    return dict(sorted(table.items()))
