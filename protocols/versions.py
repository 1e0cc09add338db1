"""Which versions of the protocols this node speaks, and what it cannot speak with a given peer. Pure.

Protocol ids are `/primed/<name>/<integer>`. A node speaks N and N-1 and lists all in its NodeRecord;
streams negotiate the version, so a mismatch is a refused stream, never a decoding error.
"""

from __future__ import annotations

from collections.abc import Iterable

from primed.p2p.spoken import by_name, listed
from primed.protocols import events, hello, rollouts, shardcast, verdicts

SPOKEN = (
    hello.PROTOCOL,
    events.PROTOCOL,
    shardcast.PROTOCOL,
    rollouts.PROTOCOL,
    verdicts.PROTOCOL,
)


def mismatch(theirs: Iterable[str], ours: Iterable[str] = SPOKEN) -> str:
    """In a sentence, what two nodes have no common version of; "" if there is nothing. Names that
    one of them does not know are not needed."""
    own, other = by_name(ours), by_name(theirs)
    odd = [name for name in own if name in other and not own[name] & other[name]]
    if not odd:
        return ""
    told = "; ".join(
        f"{name.rpartition('/')[2]} {listed(other[name])}, we speak {listed(own[name])}"
        for name in odd
    )
    is_newer = any(max(other[name]) > max(own[name]) for name in odd)
    return f"speaks {told}: {'this node' if is_newer else 'that node'} needs an update of primed"
