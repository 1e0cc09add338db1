"""Weighted rendezvous hashing: everyone ranks the same peers the same way, without agreeing first.

Used for a worker's learners, a batch's holders and first recipients (Thaler and Ravishankar 1998;
weights as in Schindelhauer and Schomaker 2005: score = -weight / ln(u)).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from primed.verify.digests import Xof


def ranked(weights: Mapping[bytes, int], what: str, *fields: bytes) -> list[bytes]:
    """Peers by falling score for this key; ties (practically none) by peer id."""

    def score(peer: bytes) -> float:
        uniform = (Xof(f"rendezvous-{what}", peer, *fields).u64() + 0.5) / 2**64
        return -weights[peer] / math.log(uniform)

    return sorted(weights, key=lambda peer: (-score(peer), peer))
