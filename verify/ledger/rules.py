"""Second half of a fold: rules over joined facts. Fraud first, then settlement, pay and vesting.

Deadlines count in cuts; nothing here reads a clock. Each rule walks a table once and its result
does not depend on the order of rows. Sum of remaining budget and all accounts is constant.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from primed.verify.decision import Ruling, exceeds_fraud_limit, judge, refused_state
from primed.verify.ledger.book import Book
from primed.verify.ledger.state import OPEN, Batch, Lot, is_finished

SKIPS_TOLERATED = 20  # one skipped counter in twenty


def apply(book: Book) -> None:
    rulings = {
        commitment: _ruling(book, batch)
        for commitment, batch in book.batches.items()
        if batch.state in OPEN
    }
    _punish(book, rulings)
    for commitment, ruling in rulings.items():
        if book.batches[commitment].state == "committed":
            _settle(book, commitment, ruling)
    _pay(book)
    _vest(book)
    _review_probation(book)


def _ruling(book: Book, batch: Batch) -> Ruling:
    terms = book.terms(batch)
    if terms is None:  # the named cut is too old or unknown: verdicts cannot be weighed any more
        return Ruling("accepted" if batch.state == "payable" else "open")
    return judge(terms, batch.claims, batch.verdicts)


def _punish(book: Book, rulings: dict[bytes, Ruling]) -> None:
    """Final rejects for fraud: close, burn what is unvested, exclude repeated offenders."""
    guilty: dict[bytes, list[int]] = {}
    for commitment, ruling in rulings.items():
        if ruling.is_fraud:
            batch = book.batches[commitment]
            guilty.setdefault(batch.worker, []).append(batch.counter)
            book.close(commitment, "rejected", ruling.reason)
    limit, window = book.parameters.exclude_after, book.parameters.exclude_window_batches
    for peer, counters in guilty.items():
        worker = book.worker(peer)
        counters = sorted({*worker.fraud_counters, *counters})
        excluded = worker.excluded or exceeds_fraud_limit(counters, limit, window)
        book.change_worker(
            peer,
            fraud_counters=tuple(c for c in counters if c > counters[-1] - window),
            excluded=excluded,
            accepted=0,
            freed_cut=None,
        )
        _burn(book, peer)
    for commitment in [c for c, b in book.batches.items() if b.state in OPEN]:
        batch = book.batches[commitment]
        if batch.state == "payable" and batch.worker in guilty:
            book.close(commitment, "rejected", "forfeited")
        elif book.worker(batch.worker).excluded:
            book.close(commitment, "rejected", "excluded")


def _burn(book: Book, peer: bytes) -> None:
    pending = book.accounts[peer].pending_micro if peer in book.accounts else 0
    if pending:
        book.credit(peer, pending=-pending, burned=pending)
    book.lots.pop(peer, None)


def _settle(book: Book, commitment: bytes, ruling: Ruling) -> None:
    """Move one `committed` batch on, if the facts or its deadline allow."""
    batch = book.batches[commitment]
    is_late = book.number > (batch.entered or batch.joined) + book.open_cuts
    if not batch.entered:
        if is_late:
            book.close(commitment, "inconclusive", "gap")
    elif ruling.kind == "rejected":
        book.close(commitment, refused_state(ruling.reason), ruling.reason)
    elif not batch.is_stored:
        book.close(commitment, "rejected", "no receipt")
    elif batch.entered == book.number:
        return  # payable at the first cut after the one that holds it
    elif _is_refused(book, batch):
        book.close(commitment, refused_state(batch.refusal), batch.refusal)
    elif ruling.kind == "accepted" or (ruling.kind == "unclaimed" and not batch.on_probation):
        worker = book.worker(batch.worker)
        book.change_worker(batch.worker, accepted=worker.accepted + 1)
        book.change_batch(commitment, state="payable", decided=book.number)
    elif is_late:
        reason = "verdicts disagree" if ruling.kind == "contested" else "too few verdicts"
        book.close(commitment, "inconclusive", reason)


def _is_refused(book: Book, batch: Batch) -> bool:
    """A learner's refusal counts unless it used the batch; `stale` must follow from its manifests."""
    if not batch.refusal or batch.used_by:
        return False
    if batch.refusal != "stale":
        return True
    newest, named = book.newest.get(batch.learner), book.versions.get(batch.version)
    if newest is None or named is None:
        return False
    return book.versions[newest].step - named.step > book.parameters.max_staleness


def _pay(book: Book) -> None:
    """Credit everything earned in this cut, pro rata if the budget does not cover all of it."""
    work = {
        commitment: batch.tokens * book.prices.token
        for commitment, batch in book.batches.items()
        if batch.state == "payable" and batch.decided == book.number
    }
    extra: dict[bytes, list[int]] = {}
    for peer in _agreeing_verdicts(book):
        extra.setdefault(peer, []).append(book.prices.verdict)
    for learner in _finished_versions(book):
        extra.setdefault(learner, []).append(book.prices.version)
    owed = sum(work.values()) + sum(sum(amounts) for amounts in extra.values())
    budget = book.remaining_micro
    for commitment, amount in work.items():
        share = amount if owed <= budget else amount * budget // owed
        book.change_batch(commitment, credits_micro=share)
        _mint(book, book.batches[commitment].worker, share)
    for peer, amounts in extra.items():
        total = sum(amounts)
        share = total if owed <= budget else total * budget // owed
        _mint(book, peer, share)
        if share:
            book.lots[peer] = (*book.lots.get(peer, ()), Lot(book.number, share))


def _mint(book: Book, peer: bytes, micro: int) -> None:
    if micro:
        book.remaining_micro -= micro
        book.credit(peer, pending=micro)


def _agreeing_verdicts(book: Book) -> Iterable[bytes]:
    """Authors of unpaid verdicts that agree with their batch's outcome; marks them as paid."""
    for commitment, batch in list(book.batches.items()):
        is_accepted = batch.state in ("payable", "vested")
        wanted = "accept" if is_accepted else "reject"
        if not is_accepted and not (batch.state == "rejected" and _is_final(book, batch)):
            continue
        paid = [
            peer
            for peer, opinion in batch.verdicts.items()
            if opinion.outcome == wanted and not opinion.is_paid
        ]
        if paid:
            marks = {
                peer: msgspec.structs.replace(batch.verdicts[peer], is_paid=True) for peer in paid
            }
            book.change_batch(commitment, verdicts={**batch.verdicts, **marks})
            yield from paid


def _is_final(book: Book, batch: Batch) -> bool:
    terms = book.terms(batch)
    return terms is not None and judge(terms, batch.claims, batch.verdicts).kind == "rejected"


def _finished_versions(book: Book) -> Iterable[bytes]:
    """Learners of versions of which every consumed batch is payable; drops decided versions."""
    for version, row in list(book.unpaid.items()):
        used = [book.batches.get(commitment) for commitment in row.consumed]
        known = [batch for batch in used if batch is not None]
        is_earned = len(known) == len(used) > 0 and all(
            batch.used_by == version and batch.state in ("payable", "vested") for batch in known
        )
        is_lost = any(batch.state not in (*OPEN, "vested") for batch in known)
        if is_earned:
            yield row.learner
        if is_earned or is_lost or book.number > row.joined + 2 * book.open_cuts:
            del book.unpaid[version]


def _vest(book: Book) -> None:
    """Pending credits become final after enough further batches *and* enough cuts. A finished run
    has no further batches: there the cuts are enough."""
    waits = book.parameters.vest_epochs
    finished = is_finished(book.run, book.members["learner"], book.newest, book.versions)
    for commitment, batch in list(book.batches.items()):
        further = book.worker(batch.worker).next_counter - 1 - batch.counter
        is_proven = further >= book.parameters.vest_batches or finished
        is_due = book.number - batch.decided >= waits and is_proven
        if batch.state == "payable" and is_due:
            book.credit(batch.worker, pending=-batch.credits_micro, final=batch.credits_micro)
            book.close(commitment, "vested", "")
    for peer, lots in list(book.lots.items()):
        due = sum(lot.micro for lot in lots if book.number - lot.cut >= waits)
        book.credit(peer, pending=-due, final=due)
        book.lots[peer] = tuple(lot for lot in lots if book.number - lot.cut < waits)
        if not book.lots[peer]:
            del book.lots[peer]


def _review_probation(book: Book) -> None:
    """Who is off probation for commitments that name this cut or a later one."""
    for peer, worker in list(book.workers.items()):
        is_free = (
            worker.accepted >= book.parameters.probation_batches
            and worker.skipped * SKIPS_TOLERATED <= worker.next_counter
        )
        if is_free != (worker.freed_cut is not None):
            book.change_worker(peer, freed_cut=book.number if is_free else None)
