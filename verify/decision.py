"""Who may judge a batch, and what a set of verdicts decides (algorithms.md section 4, "Decision").

Shared by the live view (verify.verdicts) and the ledger's fold, so that both give one answer.
One round of draw: a claim is valid when its VRF proof draws a verifier whom the cut named by the
commitment admits. Rejects are final only when they hold more than half of *all* admitted weight,
and accepts that do outvote them: a minority of verifiers can burn nobody and, where all are drawn,
block nobody. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fractions import Fraction
from typing import Literal

from msgspec import Struct

from primed.verify import draw, vrf
from primed.verify.runspec import Run
from primed.verify.signing import public_key_of
from primed.verify.statements import Claim

ROUNDS = 1  # later rounds are not drawn in this version; their claims are ignored

# A reject for one of these is proof of dishonesty; any other reason is an error: unpaid, no more.
FRAUD = frozenset(
    {
        "schema",
        "assignment",
        "counts",
        "reward",
        "duplicate",
        "sampling",
        "proof",
        "logprob",
        "commitment",
    }
)


class Opinion(Struct, frozen=True, array_like=True):
    """One verifier's verdict. `is_paid` is the ledger's mark that it has earned its price."""

    outcome: Literal["accept", "reject", "inconclusive"]
    reason: str
    is_paid: bool = False


class Terms(Struct, frozen=True):
    """What a batch is judged by; fixed by the cut that its commitment names."""

    cut_root: bytes
    verifiers: dict[bytes, int]  # admitted by that cut, without the worker itself; weights
    on_probation: bool

    @property
    def total_weight(self) -> int:
        return sum(self.verifiers.values())

    @property
    def needed_accepts(self) -> int:
        return 2 if self.on_probation and len(self.verifiers) >= 3 else 1


class Ruling(Struct, frozen=True):
    """accepted, rejected (final), contested (rejects that are not final), unclaimed, or open."""

    kind: Literal["accepted", "rejected", "contested", "unclaimed", "open"]
    reason: str = ""
    is_fraud: bool = False
    accepts: int = 0


class Duty(Struct, frozen=True):
    """A verifier's own draw: prove `alpha`, claim if `is_drawn` says so of the VRF output."""

    commitment: bytes
    alpha: bytes
    share: Fraction  # of all admitted verifier weight
    intensity: Fraction

    def is_drawn(self, output: bytes) -> bool:
        return draw.is_drawn(output, self.share, self.intensity)


def duty_of(
    run: Run, terms: Terms, commitment: bytes, worker: bytes, counter: int, verifier: bytes
) -> Duty | None:
    """The draw of `verifier` for this batch, or None if the named cut does not admit it."""
    weight = terms.verifiers.get(verifier)
    if weight is None:
        return None
    return Duty(
        commitment=commitment,
        alpha=draw.alpha(run.run_id, worker, counter, 0, terms.cut_root),
        share=Fraction(weight, terms.total_weight),
        intensity=draw.intensity(terms.on_probation, run.spec.parameters.audit_rate, 0),
    )


def is_valid_claim(
    run: Run, terms: Terms, worker: bytes, counter: int, verifier: bytes, claim: Claim
) -> bool:
    """Whether the claim's VRF proof verifies under the claimer's key and draws it."""
    duty = duty_of(run, terms, claim.commitment, worker, counter, verifier)
    if duty is None or claim.round >= ROUNDS:
        return False
    output = vrf.output(public_key_of(verifier), duty.alpha, claim.proof)
    return output is not None and duty.is_drawn(output)


def judge(terms: Terms, claims: Collection[bytes], verdicts: Mapping[bytes, Opinion]) -> Ruling:
    """What the verdicts of valid claims decide so far; knows no deadlines."""
    opinions = {peer: verdicts[peer] for peer in claims if peer in verdicts}
    against: dict[str, int] = {}
    rewards = 0
    for peer, opinion in opinions.items():
        if opinion.outcome == "reject":
            weight = terms.verifiers.get(peer, 0)
            against[opinion.reason] = against.get(opinion.reason, 0) + weight
            rewards += opinion.reason == "reward"
    accepts = sum(opinion.outcome == "accept" for opinion in opinions.values())
    in_favour = sum(
        terms.verifiers.get(peer, 0)
        for peer, given in opinions.items()
        if given.outcome == "accept"
    )
    if against and 2 * in_favour <= terms.total_weight:
        reason = min(against, key=lambda reason: (-against[reason], reason))
        proven = FRAUD if rewards >= 2 else FRAUD - {"reward"}  # one scorer may have crashed
        fraud = sum(weight for reason, weight in against.items() if reason in proven)
        is_final = 2 * sum(against.values()) > terms.total_weight
        kind: Literal["rejected", "contested"] = "rejected" if is_final else "contested"
        return Ruling(kind, reason, is_final and 2 * fraud > terms.total_weight, accepts)
    if accepts >= terms.needed_accepts:
        return Ruling("accepted", accepts=accepts)
    return Ruling("open" if claims else "unclaimed", accepts=accepts)


def refused_state(reason: str) -> Literal["stale", "unavailable", "rejected"]:
    """The state that a learner's refusal, or a final reject for an error, leads to."""
    if reason == "stale":
        return "stale"
    return "unavailable" if reason in ("unavailable", "timeout") else "rejected"


def exceeds_fraud_limit(counters: Collection[int], after: int, window: int) -> bool:
    """Whether `after` of the counters of fraudulent batches lie within `window` counters."""
    ordered = sorted(counters)
    last = after - 1
    return any(ordered[i + last] - ordered[i] < window for i in range(max(0, len(ordered) - last)))
