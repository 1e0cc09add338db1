"""Which verifiers check a batch, and which of its chunks they open.

A verifier's draw is its ECVRF output (primed.verify.vrf) over (run, worker, counter, round, cut
root): it cannot be chosen, foreseen by the worker, or denied. Compared in exact rationals; the
logarithm is the decimal module's, rounded correctly to 40 digits, so that every machine agrees.
"""

from __future__ import annotations

from decimal import Context, Decimal
from fractions import Fraction

from primed.verify.digests import Xof, joined, u64

PROBATION_INTENSITY = Fraction(3)  # expected verifiers of a batch of a worker on probation
ALWAYS = Fraction(1 << 128)  # draws every share of weight that is not zero

_DIGITS = Context(prec=40)


def alpha(run: bytes, worker: bytes, counter: int, round: int, cut_root: bytes) -> bytes:
    """What a verifier proves its draw over: domain, then length-prefixed fields."""
    return b"primed/draw/1" + joined([run, worker, u64(counter), u64(round), cut_root])


def intensity(on_probation: bool, audit_rate: float, round: int) -> Fraction:
    """Expected number of drawn verifiers, doubled each round: 3 on probation, else the number for
    which at least one is drawn with probability `audit_rate`. A rate of 1 or more draws all."""
    if audit_rate >= 1:
        return ALWAYS
    if on_probation:
        return PROBATION_INTENSITY * (1 << round)
    spared = _DIGITS.subtract(Decimal(1), Decimal(audit_rate))
    return Fraction(_DIGITS.ln(spared)) * -(1 << round)


def is_drawn(output64: bytes, weight_share: float | Fraction, intensity: float | Fraction) -> bool:
    """Whether u64(output) / 2^64 < min(1, intensity · weight_share), exactly.

    weight_share: the verifier's part of all admitted verifiers' weight, best as a Fraction.
    """
    drawn_below = Fraction(intensity) * Fraction(weight_share)
    return Fraction(int.from_bytes(output64[:8], "big"), 1 << 64) < drawn_below


def opened(output64: bytes, root: bytes, chunks: int, count: int) -> list[int]:
    """The chunks to open of a batch, sorted, as indices over all its chunks in commitment order."""
    return Xof("open", output64, root).sample(chunks, count)
