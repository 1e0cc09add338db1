"""What `primed rewards` says of a batch: one word, its reason, and what it waits for in a sentence.

Joins the live view (Case), the ledger (Batch while open, Settled afterwards) and what the worker
itself knows before it commits. The ledger's decision comes before the live view's.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from primed.verify.cases import Case
from primed.verify.ledger.state import Batch, Settled, State, is_finished, worker_of
from primed.verify.runspec import Parameters, Run

Word = Literal[
    "generating",
    "stored",
    "committed",
    "drawn",
    "not drawn",
    "usable",
    "payable",
    "vested",
    "rejected",
    "unavailable",
    "stale",
    "inconclusive",
    "skipped",
]


class BatchLine(Struct, frozen=True):
    """One row. waits_for is "" for a last word; used_by is the version that trained on it."""

    counter: int
    state: Word
    reason: str
    waits_for: str
    tokens: int
    credits_micro: int
    used_by: str = ""

    @property
    def label(self) -> str:
        return f"rejected ({self.reason})" if self.state == "rejected" else self.state


def before_commit(counter: int, state: Literal["generating", "stored"], tokens: int) -> BatchLine:
    """A batch that only its worker knows of."""
    waits = {
        "generating": "Waits for the engine to finish its completions.",
        "stored": "Waits for its commitment to be signed and published.",
    }
    return BatchLine(counter, state, "", waits[state], tokens, 0)


def skipped(counter: int, reason: str) -> BatchLine:
    return BatchLine(counter, "skipped", reason, "", 0, 0)


def explain(
    run: Run,
    state: State,
    commitment: bytes,
    case: Case | None = None,
    settled: Settled | None = None,
) -> BatchLine | None:
    """The line of a committed batch; None if nothing given knows it.

    settled: the record kept from `State.settled` when a cut closed the batch, if there is one.
    """
    if settled is not None:
        return _settled_line(settled, _used_by(case, state.batches.get(commitment)))
    batch = state.batches.get(commitment)
    if batch is not None and (batch.closed or batch.state == "payable"):
        return _ledger_line(run, state, batch, case)
    if case is None:
        return None if batch is None else _ledger_line(run, state, batch, None)
    return _live_line(case, batch)


def _settled_line(settled: Settled, used_by: str) -> BatchLine:
    paid = settled.credits_micro if settled.state == "vested" else 0
    return BatchLine(
        settled.counter, settled.state, settled.reason, "", settled.tokens, paid, used_by
    )


def _ledger_line(run: Run, state: State, batch: Batch, case: Case | None) -> BatchLine:
    waits, micro = "", batch.credits_micro
    if batch.state == "committed":
        waits = f"Waits for verdicts and for cut {state.number + 1}."
    elif batch.state == "payable":
        worker = worker_of(run, state, batch.worker)
        finished = is_finished(run, state.weights("learner"), state.newest, state.versions)
        further = None if finished else worker.next_counter - 1 - batch.counter
        waits = _vesting(run.spec.parameters, state.number, further, batch)
    elif batch.state != "vested":
        micro = 0  # never earned, or burned
    return BatchLine(
        batch.counter,
        batch.state,
        batch.reason,
        waits,
        batch.tokens,
        micro,
        _used_by(case, batch),
    )


def _vesting(parameters: Parameters, number: int, further: int | None, batch: Batch) -> str:
    """further: batches of its worker after this one; None in a finished run, which needs none."""
    parts = []
    if further is not None and further < parameters.vest_batches:
        parts.append(f"{parameters.vest_batches - further} further batches of its worker")
    cuts = parameters.vest_epochs - (number - batch.decided)
    if cuts > 0:
        parts.append(f"{cuts} more cuts")
    return f"Waits to vest: {' and '.join(parts) or 'the next cut'}."


def _live_line(case: Case, batch: Batch | None) -> BatchLine:
    word: Word = case.state
    reason, waits = case.now.reason, case.now.waits_for
    if word in ("usable", "not drawn") and case.used_by:
        waits = ""
    if word in ("usable", "not drawn", "inconclusive"):
        cut = "the cut that holds its commitment" if batch is None else "the next cut"
        waits = f"{waits} and {cut}" if waits else cut
    sentence = f"Waits for {waits}." if waits else ""
    return BatchLine(
        case.body.counter, word, reason, sentence, case.body.tokens, 0, _used_by(case, batch)
    )


def _used_by(case: Case | None, batch: Batch | None) -> str:
    version = (case.used_by if case else b"") or (batch.used_by if batch else b"")
    return version.hex()
