"""One commitment as this node sees it, and the state that facts and local deadlines give it.

`assess` is a pure function of the facts and of `now` (monotonic seconds of this node): the same
facts in any order give the same state. Deadlines are local, so a late claim does not take a batch
out of `not drawn`, but its reject still blocks; a late verdict can still end `inconclusive`.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from primed.verify.decision import FRAUD, Opinion, Ruling, Terms, judge, refused_state
from primed.verify.runspec import Parameters
from primed.verify.statements import Claim, Committed

CaseState = Literal[
    "committed",
    "drawn",
    "not drawn",
    "usable",
    "rejected",
    "unavailable",
    "stale",
    "inconclusive",
]
ENDED: tuple[CaseState, ...] = ("rejected", "unavailable", "stale")
OVER: tuple[CaseState, ...] = (*ENDED, "inconclusive")  # not trained on; a late verdict may reopen


class Assessment(Struct, frozen=True):
    """waits_for: a sentence's object, "" when nothing is awaited; deadline: monotonic seconds."""

    state: CaseState
    reason: str = ""
    waits_for: str = ""
    deadline: float | None = None
    is_usable: bool = False
    is_fraud: bool = False


class Case(Struct):
    """Facts about a commitment. Changed by verify.verdicts only."""

    commitment: bytes
    worker: bytes
    seq: int  # of the commitment in its author's chain
    body: Committed
    seen: float
    hold: str = ""  # why it cannot be drawn yet
    fault: str = ""  # why it never counts
    settled: tuple[CaseState, str] | None = None  # the ledger's last word
    terms: Terms | None = None  # known once it can be drawn
    opened: float = 0.0  # when it became so
    unchecked: dict[bytes, tuple[Claim, float]] = field(default_factory=dict)
    claims: dict[bytes, float] = field(default_factory=dict)  # valid; when seen
    verdicts: dict[bytes, Opinion] = field(default_factory=dict)
    refusal: str = ""  # of the batch's learner
    used_by: bytes = b""  # version that consumed it
    usable_since: float | None = None
    is_punished: bool = False  # its fraud was counted
    now: Assessment = Assessment("committed")

    @property
    def state(self) -> CaseState:
        return self.now.state

    @property
    def is_usable(self) -> bool:
        """Usable and not consumed yet."""
        return self.now.is_usable and not self.used_by

    @property
    def is_open(self) -> bool:
        """Whether the policy version it names must be kept (its lease)."""
        return self.state in ("committed", "drawn") and not self.used_by

    @property
    def is_accused(self) -> bool:
        """Whether only its learner has called it a fraud so far. That leaves it unpaid; verdicts
        alone can punish, so verifiers still draw and check it."""
        is_refused = self.state == "rejected" and self.now.reason == self.refusal
        return is_refused and self.refusal in FRAUD and not (self.is_punished or self.settled)

    @property
    def is_up_for_judgement(self) -> bool:
        return self.state not in ENDED or self.is_accused


def assess(case: Case, parameters: Parameters, now: float) -> Assessment:
    """The case's state at `now`."""
    if case.settled is not None:
        return Assessment(*case.settled)
    if case.terms is None:
        if case.fault:
            return Assessment("rejected", case.fault)
        if case.refusal:
            return Assessment(refused_state(case.refusal), case.refusal)
        return Assessment("committed", waits_for=case.hold)
    ruling = judge(case.terms, case.claims, case.verdicts)
    if ruling.kind == "rejected":
        return Assessment(refused_state(ruling.reason), ruling.reason, is_fraud=ruling.is_fraud)
    if case.fault and not case.used_by:
        return Assessment("rejected", case.fault)
    if case.refusal and not case.used_by:
        return Assessment(refused_state(case.refusal), case.refusal)
    if ruling.kind == "accepted":
        return Assessment("usable", waits_for="its learner to train on it", is_usable=True)
    return _round(case, case.terms, ruling, parameters, now)


def _round(
    case: Case, terms: Terms, ruling: Ruling, parameters: Parameters, now: float
) -> Assessment:
    """Without a decision yet: where the round of draw and verdicts stands."""
    window_end = case.opened + parameters.claim_s
    last = window_end + (parameters.verdict_s if terms.on_probation else 0.0)
    timely = [seen for seen in case.claims.values() if seen <= last]
    closes = max([window_end, *timely]) + parameters.verdict_s
    if ruling.kind == "contested":
        if now >= closes:
            return Assessment("inconclusive", f"verdicts disagree ({ruling.reason})")
        wait = f"more verdicts, since one rejects it ({ruling.reason})"
        return Assessment("drawn", waits_for=wait, deadline=closes)
    if not timely and not terms.on_probation:
        if now < window_end:
            wait = "verifiers to draw it"
            return Assessment("committed", waits_for=wait, deadline=window_end)
        return Assessment("not drawn", waits_for="its learner to train on it", is_usable=True)
    if not timely:
        if now >= closes:
            return Assessment("inconclusive", "no verifier claimed it")
        wait = "a verifier to claim it (its worker is on probation)"
        return Assessment("committed", waits_for=wait, deadline=closes)
    return _awaited(case, terms, ruling, now, window_end, closes, len(timely))


def _awaited(
    case: Case,
    terms: Terms,
    ruling: Ruling,
    now: float,
    window_end: float,
    closes: float,
    claims: int,
) -> Assessment:
    """Claimed in time, no reject, not enough accepts."""
    missing = sum(peer not in case.verdicts for peer in case.claims)
    may_grow = now < window_end or (terms.on_probation and claims < terms.needed_accepts)
    if now >= closes or not (missing or may_grow):
        return Assessment("inconclusive", f"{ruling.accepts} of {terms.needed_accepts} accepts")
    accepts = f"{ruling.accepts} of {terms.needed_accepts} accepts so far"
    wait = f"the verdicts of {missing} verifiers" if missing else "more verifiers to claim it"
    deadline = window_end if now < window_end and not missing else closes
    return Assessment("drawn", waits_for=f"{wait} ({accepts})", deadline=deadline)
