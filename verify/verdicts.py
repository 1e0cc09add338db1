"""The live, local view of commitments: who must check what, and what may be trained on.

Every daemon feeds it all events it takes in, in any order across authors, and each ledger state
that it folds; roles react to `changes()`. Probation, admission and draw terms come from the state
of the cut that a commitment names, so all nodes judge a claim alike. Exclusion is immediate.
Deadlines are local and monotonic; no clock is read here.

Bounded: a case goes when the ledger forgets its batch. Beyond CASES_MAX one that is over goes, else the
newest of whoever has most, first of those who never had a batch accepted. Facts without a
commitment wait in `Early`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from msgspec import Struct

from primed.verify.cases import ENDED, Case, assess
from primed.verify.counters import Counters
from primed.verify.decision import (
    Duty,
    Opinion,
    duty_of,
    exceeds_fraud_limit,
    is_valid_claim,
)
from primed.verify.early import Early
from primed.verify.ledger.facts import is_stored
from primed.verify.ledger.state import (
    CUT_LAG,
    GAP_LIMIT,
    OPEN,
    State,
    epochs_of,
    genesis,
    is_worker,
    terms_of,
    worker_of,
)
from primed.verify.runspec import Run
from primed.verify.statements import (
    Claim,
    Committed,
    Entry,
    Manifest,
    Rejected,
    Skipped,
    Verdict,
    version_of,
)

CASES_MAX = 8192
EARLY_OF_MEMBER, EARLY_OF_OTHERS = 2048, 256  # facts without a commitment
UNCHECKED_MAX = 64  # claims of others on a batch whose draw terms are not known yet

_Fact = Claim | Verdict | Rejected | bytes  # bytes: the version that consumed the batch


class WorkerStatus(Struct, frozen=True):
    """Where a worker stands: `frauds` are (counter, reason) of final rejects for fraud."""

    on_probation: bool
    accepted: int
    is_excluded: bool
    frauds: tuple[tuple[int, str], ...]


class Cases:
    def __init__(self, run: Run) -> None:
        self._run, self._parameters = run, run.spec.parameters
        self._state = genesis(run)
        self._epochs = epochs_of(self._state)
        self._cases: dict[bytes, Case] = {}  # oldest first
        self._by_worker: dict[bytes, dict[bytes, Case]] = {}  # the same
        self._counters = Counters(GAP_LIMIT)
        self._early: Early[_Fact] = Early()
        self._listed = frozenset((*run.peers("verifier"), *run.peers("learner")))
        self._frauds: dict[bytes, dict[int, str]] = {}
        self._excluded: set[bytes] = set()
        self._changed: dict[bytes, None] = {}
        self.ignored: Counter[str] = Counter()  # reason -> statements that did not count

    # -- feeding

    def observe(self, entry: Entry, now: float) -> None:
        """Take an event in. Kinds that say nothing about batches are ignored."""
        body = entry.body
        if isinstance(body, Committed):
            self._commit(entry, body, now)
        elif isinstance(body, Skipped):
            self._fill(entry.author, body.counter, entry.seq, b"", now)
        elif isinstance(body, Claim | Verdict | Rejected):
            self._fact(entry.author, body.commitment, body, now)
        elif isinstance(body, Manifest) and entry.author == body.learner:
            for commitment in body.consumed:
                self._fact(entry.author, commitment, version_of(body), now)

    def adopt(self, state: State, now: float) -> None:
        """Take over a newly folded ledger state: admission, probation, exclusion, last words."""
        before, self._state, self._epochs = self._state, state, epochs_of(state)
        for peer, worker in state.workers.items():
            was = before.workers.get(peer)
            if worker.excluded:
                self._excluded.add(peer)
            elif was is not None and was.excluded:  # admitted again by the originator
                self._excluded.discard(peer)
                self._frauds.pop(peer, None)
            for counter in worker.fraud_counters:
                self._frauds.setdefault(peer, {}).setdefault(counter, "ledger")
            self._counters.settle(peer, worker.next_counter)
        for case in list(self._cases.values()):
            self._follow_ledger(case)
            self._review(case, now)

    def advance(self, now: float) -> None:
        """Let local deadlines pass. Call it every fraction of a second, or at `next_deadline`."""
        for case in list(self._cases.values()):
            if case.now.deadline is not None and now >= case.now.deadline:
                self._review(case, now)

    def void(self, author: bytes, seq: int, now: float) -> None:
        """The author equivocated at `seq`: its commitments from there on never count."""
        for case in list(self._cases.values()):
            if case.worker == author and case.seq >= seq and not case.fault:
                case.fault = "equivocation"
                self._review(case, now)

    # -- asking

    def case(self, commitment: bytes) -> Case | None:
        return self._cases.get(commitment)

    def all(self) -> list[Case]:
        """Every case, oldest first."""
        return list(self._cases.values())

    def of_worker(self, worker: bytes) -> list[Case]:
        """Its cases by counter."""
        mine = self._by_worker.get(worker, {})
        return sorted(mine.values(), key=lambda case: (case.body.counter, case.seq))

    def usable(self, learner: bytes) -> list[Case]:
        """What the learner may train on now, in the order in which it became usable here."""
        found = [
            case for case in self._cases.values() if case.is_usable and case.body.learner == learner
        ]
        return sorted(found, key=lambda case: (case.usable_since or 0.0, case.commitment))

    def changes(self) -> list[Case]:
        """Cases whose state, use or drawability changed since the last call; one caller."""
        changed, self._changed = list(self._changed), {}
        return [self._cases[commitment] for commitment in changed if commitment in self._cases]

    def next_deadline(self) -> float | None:
        deadlines = (case.now.deadline for case in self._cases.values())
        return min((at for at in deadlines if at is not None), default=None)

    def duty(self, commitment: bytes, verifier: bytes) -> Duty | None:
        """The draw that `verifier` should make now; None if it is not up for claims."""
        case = self._cases.get(commitment)
        if case is None or case.terms is None or verifier in case.claims:
            return None
        if not (case.is_open or case.is_accused):
            return None
        return duty_of(self._run, case.terms, commitment, case.worker, case.body.counter, verifier)

    def claim_for(
        self, commitment: bytes, verifier: bytes, prove: Callable[[bytes], bytes]
    ) -> Claim | None:
        """The claim to sign if the verifier is drawn. `prove` makes an ECVRF proof of alpha."""
        duty = self.duty(commitment, verifier)
        if duty is None:
            return None
        claim, case = Claim(commitment, 0, prove(duty.alpha)), self._cases[commitment]
        assert case.terms is not None
        is_mine = is_valid_claim(
            self._run, case.terms, case.worker, case.body.counter, verifier, claim
        )
        return claim if is_mine else None

    def unfinished(self, verifier: bytes) -> list[Case]:
        """Claimed by this verifier, without its verdict: what to resume after a restart."""
        return [
            case
            for case in self._cases.values()
            if verifier in case.claims
            and verifier not in case.verdicts
            and case.is_up_for_judgement
        ]

    def leased_versions(self) -> set[bytes]:
        """Policy versions that open cases name and that must be kept."""
        return {case.body.version for case in self._cases.values() if case.is_open}

    def is_excluded(self, worker: bytes) -> bool:
        return worker in self._excluded

    def is_member(self, author: bytes) -> bool:
        """Whether it may be one whose word on batches counts."""
        state = self._state
        return author in self._listed or any(
            author in state.weights(role) for role in ("verifier", "learner")
        )

    def worker(self, peer: bytes) -> WorkerStatus:
        worker = worker_of(self._run, self._state, peer)
        return WorkerStatus(
            on_probation=worker.on_probation(self._state.number),
            accepted=worker.accepted,
            is_excluded=peer in self._excluded,
            frauds=tuple(sorted(self._frauds.get(peer, {}).items())),
        )

    # -- facts

    def _commit(self, entry: Entry, body: Committed, now: float) -> None:
        if entry.digest in self._cases:
            return
        worker = worker_of(self._run, self._state, entry.author)
        known = self._state.batches.get(entry.digest)
        if body.counter < worker.next_counter and (known is None or known.state not in OPEN):
            self.ignored["closed or duplicate commitment"] += 1
            return
        if self._counters.is_far(entry.author, body.counter):
            self.ignored["commitment far beyond a gap"] += 1
            return
        case = Case(entry.digest, entry.author, entry.seq, body, seen=now)
        if not is_stored(self._run, entry.author, body):
            case.fault = "no receipt"
        if known is not None:
            case.claims = dict.fromkeys(known.claims, now)
            case.verdicts = dict(known.verdicts)
            case.refusal, case.used_by = known.refusal, known.used_by
        self._cases[entry.digest] = case
        self._by_worker.setdefault(entry.author, {})[entry.digest] = case
        self._changed[entry.digest] = None
        self._fill(entry.author, body.counter, entry.seq, entry.digest, now)
        self._take_early(case)
        self._review(case, now)
        self._evict()

    def _fill(self, author: bytes, counter: int, seq: int, commitment: bytes, now: float) -> None:
        """A counter is accounted for: the lowest sequence number has it, later ones are void."""
        following = self._counters.following(author)
        for displaced in self._counters.fill(author, counter, seq, commitment):
            case = self._cases.get(displaced)
            if case is not None and not case.fault:
                case.fault = "duplicate"
                self._review(case, now)
        if self._counters.following(author) > following:
            held = (case for case in self._by_worker.get(author, {}).values() if case.hold)
            for case in sorted(held, key=lambda case: case.body.counter):
                self._review(case, now)

    def _fact(self, author: bytes, commitment: bytes, fact: _Fact, now: float) -> None:
        case = self._cases.get(commitment)
        if case is None:
            is_member = self.is_member(author)
            line, room = (author, EARLY_OF_MEMBER) if is_member else (b"", EARLY_OF_OTHERS)
            self._early.add(author, commitment, fact, now, line, room)
            return
        self._apply(case, author, fact, now)
        self._review(case, now)

    def _take_early(self, case: Case) -> None:
        for author, fact, seen in self._early.take(case.commitment):
            self._apply(case, author, fact, seen)

    def _apply(self, case: Case, author: bytes, fact: _Fact, now: float) -> None:
        if isinstance(fact, Claim):
            has_room = len(case.unchecked) < UNCHECKED_MAX or self.is_member(author)
            if author not in case.claims and has_room:
                case.unchecked.setdefault(author, (fact, now))
        elif isinstance(fact, Verdict):
            if author in case.claims or author in case.unchecked:
                case.verdicts.setdefault(author, Opinion(fact.outcome, fact.reason))
            else:
                self.ignored["verdict without a claim"] += 1
        elif author != case.body.learner or author not in self._state.weights("learner"):
            self.ignored["not the batch's learner"] += 1
        elif isinstance(fact, Rejected):
            case.refusal = case.refusal or fact.reason or "refused"
        elif not case.used_by:
            case.used_by = fact
            self._changed[case.commitment] = None

    # -- conclusions

    def _review(self, case: Case, now: float) -> None:
        """Bring one case up to date with its facts and the time."""
        if case.commitment not in self._cases:
            return
        if case.terms is None and not case.fault:
            self._open(case, now)
        if case.terms is not None:
            self._check_claims(case)
        before, case.now = case.now, assess(case, self._parameters, now)
        if case.now.is_usable and case.usable_since is None:
            case.usable_since = now
        if (before.state, before.reason) != (case.now.state, case.now.reason):
            self._changed[case.commitment] = None
        if case.now.is_fraud:
            self._punish(case, now)

    def _open(self, case: Case, now: float) -> None:
        """Fix the draw terms if everything they need is known, else say what is missing."""
        state, body = self._state, case.body
        epoch, batch = self._epochs.get(body.cut), state.batches.get(case.commitment)
        following = self._counters.following(case.worker)
        if case.worker in self._excluded:
            case.fault = "excluded"
        elif body.counter >= following:
            case.hold = f"the batch or skip of counter {following} of the same worker"
        elif body.cut > state.number:
            case.hold = f"cut {body.cut}, which this node has not reached"
        elif not is_worker(self._run, state.members, case.worker):
            case.hold = "a cut that admits its worker"
        elif body.learner not in state.weights("learner"):
            case.fault = "learner"
        elif (
            epoch is None
            or epoch.root != body.cut_root
            or batch is None
            and body.cut < state.number - CUT_LAG
        ):
            case.fault = "cut"
        else:
            worker = worker_of(self._run, state, case.worker)
            on_probation = batch.on_probation if batch else worker.on_probation(body.cut)
            case.terms = terms_of(epoch, case.worker, on_probation)
            case.hold, case.opened = "", now
            self._changed[case.commitment] = None

    def _check_claims(self, case: Case) -> None:
        assert case.terms is not None
        for verifier, (claim, seen) in case.unchecked.items():
            is_valid = is_valid_claim(
                self._run, case.terms, case.worker, case.body.counter, verifier, claim
            )
            if is_valid:
                case.claims.setdefault(verifier, max(seen, case.opened))
            else:
                self.ignored["invalid claim"] += 1
        case.unchecked.clear()

    def _punish(self, case: Case, now: float) -> None:
        if case.is_punished:
            return
        case.is_punished = True
        frauds = self._frauds.setdefault(case.worker, {})
        frauds[case.body.counter] = case.now.reason
        limit, window = self._parameters.exclude_after, self._parameters.exclude_window_batches
        for counter in [c for c in frauds if c <= max(frauds) - window]:
            del frauds[counter]
        if case.worker not in self._excluded and exceeds_fraud_limit(frauds, limit, window):
            self._excluded.add(case.worker)
            for other in self.of_worker(case.worker):
                if not other.fault and other.state not in ENDED:
                    other.fault = "excluded"
                    self._review(other, now)

    def _follow_ledger(self, case: Case) -> None:
        """The ledger's last word on an unused batch counts; a batch it forgot is dropped."""
        batch = self._state.batches.get(case.commitment)
        if batch is None:
            if case.body.counter < self._ledger_next(case.worker):
                self._drop(case)
        elif case.used_by:
            pass  # used is used: the ledger alone says what it earns
        elif batch.state in ("rejected", "unavailable", "stale", "inconclusive"):
            case.settled = (batch.state, batch.reason)
        if case.worker in self._excluded and not case.fault:
            case.fault = "excluded"

    def _ledger_next(self, worker: bytes) -> int:
        return worker_of(self._run, self._state, worker).next_counter

    def _evict(self) -> None:
        while len(self._cases) > CASES_MAX:
            over = (case for case in self._cases.values() if case.state in ENDED or case.used_by)
            self._drop(next(over, None) or self._one_too_many())
            self.ignored["case evicted"] += 1

    def _one_too_many(self) -> Case:
        def claim_to_room(worker: bytes) -> tuple[bool, int]:
            is_new = worker_of(self._run, self._state, worker).accepted == 0
            return is_new, len(self._by_worker[worker])

        most = max(reversed(self._by_worker), key=claim_to_room)  # of equals, who came last
        return next(reversed(self._by_worker[most].values()))

    def _drop(self, case: Case) -> None:
        del self._cases[case.commitment]
        mine = self._by_worker[case.worker]
        del mine[case.commitment]
        if not mine:
            del self._by_worker[case.worker]
