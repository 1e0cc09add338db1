"""First half of a fold: events become facts in the tables. No rule is applied here, so the order
of authors cannot matter; within one author, sequence order does (algorithms.md section 10).

A fact about a commitment that no cut holds yet waits as an orphan for two cuts, because heads of
different authors enter cuts independently.
"""

from __future__ import annotations

from collections import Counter

from primed.verify import signing
from primed.verify.decision import Opinion, is_valid_claim
from primed.verify.ledger.book import Book
from primed.verify.ledger.state import (
    CUT_LAG,
    GAP_LIMIT,
    OPEN,
    Batch,
    Orphan,
    UnpaidVersion,
    Version,
    Worker,
    is_worker,
)
from primed.verify.runspec import Run
from primed.verify.statements import (
    Admitted,
    Claim,
    Committed,
    Entry,
    Granted,
    Manifest,
    Rejected,
    Skipped,
    Verdict,
    makes_a_version,
    stored_message,
    version_of,
)

ORPHAN_CUTS = 2
ORPHANS_PER_AUTHOR = 256
VERSIONS_KEPT = 256  # steps behind the newest for which a lineage's versions are remembered


def join(book: Book, entries: list[Entry]) -> None:
    """Put all entries, sorted by (author, seq), into the tables."""
    for entry in entries:
        _join_standing(book, entry)
    for entry in entries:
        if isinstance(entry.body, Manifest):
            _join_manifest(book, entry.author, entry.body)
        elif isinstance(entry.body, Committed):
            _join_committed(book, entry, entry.body)
        elif isinstance(entry.body, Skipped):
            _join_skipped(book, entry.author, entry.body)
    _join_judgements(book, entries)
    _join_consumption(book)


def _join_standing(book: Book, entry: Entry) -> None:
    """The originator's words on keys and grants."""
    if entry.author != book.run.spec.originator:
        return
    body = entry.body
    if isinstance(body, Admitted):
        book.members.setdefault(body.role, {})[body.peer] = body.weight
        # Only an exclusion that an earlier cut holds can be lifted: one in this cut comes after.
        if body.role == "worker" and book.worker(body.peer).excluded:
            book.change_worker(
                body.peer, excluded=False, fraud_counters=(), accepted=0, freed_cut=None
            )
    elif isinstance(body, Granted):
        granted = min(body.credits, book.remaining_micro)
        book.remaining_micro -= granted
        book.credit(body.peer, final=granted)


def _join_manifest(book: Book, author: bytes, manifest: Manifest) -> None:
    """A learner's next version on its own lineage (mixes are not paid), or version 0."""
    version = version_of(manifest)
    if version in book.versions:
        return
    if manifest.step == 0:
        if author == book.run.spec.originator and manifest.kind == "anchor":
            book.versions[version] = Version(author, 0)
        return
    if author != manifest.learner or author not in book.members["learner"]:
        return
    newest = book.newest.get(author)
    last = book.versions[newest].step if newest else 0
    # Version 0 may be in no cut yet: a lineage's first step is taken without it.
    follows = manifest.parents[:1] == (newest,) if newest else True
    if not makes_a_version(manifest) or not follows or manifest.step != last + 1:
        return
    book.versions[version] = Version(author, manifest.step)
    book.newest[author] = version
    if manifest.kind == "step":
        book.unpaid[version] = UnpaidVersion(author, manifest.consumed, book.number)
    for old, row in list(book.versions.items()):
        if row.learner == author and 0 < row.step < manifest.step - VERSIONS_KEPT:
            del book.versions[old]


def _join_committed(book: Book, entry: Entry, body: Committed) -> None:
    if entry.digest in book.batches:
        return
    worker = book.worker(entry.author)
    book.batches[entry.digest] = Batch(
        worker=entry.author,
        learner=body.learner,
        counter=body.counter,
        version=body.version,
        tokens=body.tokens,
        cut=body.cut,
        on_probation=worker.on_probation(body.cut),
        is_stored=is_stored(book.run, entry.author, body),
        joined=book.number,
    )
    fault = _commitment_fault(book, worker, entry.author, body)
    if fault:
        book.close(entry.digest, "rejected", fault)
    if fault in ("duplicate", "gap", "not admitted"):
        return  # the counter is taken, out of reach, or nobody's
    _take_counter(book, entry.author, body.counter, entry.digest)


def _commitment_fault(book: Book, worker: Worker, author: bytes, body: Committed) -> str:
    if not is_worker(book.run, book.members, author):
        return "not admitted"
    if body.counter < worker.next_counter or body.counter in worker.beyond:
        return "duplicate"
    if len(worker.beyond) >= GAP_LIMIT and body.counter > worker.next_counter:
        return "gap"
    if worker.excluded:
        return "excluded"
    if body.learner not in book.members["learner"]:
        return "learner"
    epoch = book.epochs.get(body.cut)
    if epoch is None or epoch.root != body.cut_root or body.cut < book.before.number - CUT_LAG:
        return "cut"
    return ""


def is_stored(run: Run, worker: bytes, body: Committed) -> bool:
    """Whether at least one peer other than the worker signed that it has the batch."""
    message = stored_message(run.run_id, worker, body.counter, body.batch, body.root)
    return any(
        receipt.holder != worker
        and signing.is_signed_by(receipt.holder, "stored", message, receipt.signature)
        for receipt in body.receipts
    )


def _join_skipped(book: Book, author: bytes, body: Skipped) -> None:
    worker = book.worker(author)
    taken = body.counter < worker.next_counter or body.counter in worker.beyond
    is_far = len(worker.beyond) >= GAP_LIMIT and body.counter > worker.next_counter
    if taken or is_far or not is_worker(book.run, book.members, author):
        return
    book.change_worker(author, skipped=worker.skipped + 1)
    _take_counter(book, author, body.counter, b"")


def _take_counter(book: Book, author: bytes, counter: int, commitment: bytes) -> None:
    """Mark the counter as used and let in all commitments that are contiguous now."""
    worker = book.worker(author)
    beyond = {**worker.beyond, counter: commitment}
    following = worker.next_counter
    while following in beyond:
        entered = beyond.pop(following)
        if entered in book.batches and book.batches[entered].state == "committed":
            book.change_batch(entered, entered=book.number)
        following += 1
    book.change_worker(author, next_counter=following, beyond=dict(sorted(beyond.items())))


def _join_judgements(book: Book, entries: list[Entry]) -> None:
    """Claims, verdicts and refusals, those that waited first; keep what is still too early."""
    facts = book.orphans + [
        Orphan(entry.author, entry.seq, book.number, entry.body)
        for entry in entries
        if isinstance(entry.body, Claim | Verdict | Rejected)
    ]
    book.orphans = []
    waiting: Counter[bytes] = Counter()
    for fact in sorted(facts, key=lambda fact: (fact.author, fact.seq)):
        batch = book.batches.get(fact.body.commitment)
        if batch is not None:
            _join_judgement(book, batch, fact)
        elif _may_wait(book, fact) and waiting[fact.author] < ORPHANS_PER_AUTHOR:
            waiting[fact.author] += 1
            book.orphans.append(fact)


def _may_wait(book: Book, fact: Orphan) -> bool:
    is_judge = any(fact.author in book.members[role] for role in ("verifier", "learner"))
    return is_judge and fact.cut + ORPHAN_CUTS > book.number


def _join_judgement(book: Book, batch: Batch, fact: Orphan) -> None:
    author, body = fact.author, fact.body
    if isinstance(body, Rejected):
        if author == batch.learner and author in book.members["learner"] and not batch.refusal:
            book.change_batch(body.commitment, refusal=body.reason or "refused")
    elif isinstance(body, Claim):
        terms = book.terms(batch)
        if terms is None or author in batch.claims or batch.state not in OPEN:
            return
        if is_valid_claim(book.run, terms, batch.worker, batch.counter, author, body):
            claims = tuple(sorted((*batch.claims, author)))
            book.change_batch(body.commitment, claims=claims)
    elif author in batch.claims and author not in batch.verdicts:
        opinion = Opinion(body.outcome, body.reason)
        verdicts = dict(sorted({**batch.verdicts, author: opinion}.items()))
        book.change_batch(body.commitment, verdicts=verdicts)


def _join_consumption(book: Book) -> None:
    """Mark batches that a version of their own lineage consumed; the first version counts."""

    def order(item: tuple[bytes, UnpaidVersion]) -> tuple[int, int, bytes]:
        known = book.versions.get(item[0])
        return item[1].joined, known.step if known else 0, item[0]

    for version, row in sorted(book.unpaid.items(), key=order):
        for commitment in row.consumed:
            batch = book.batches.get(commitment)
            if batch is not None and not batch.used_by and batch.learner == row.learner:
                book.change_batch(commitment, used_by=version)
