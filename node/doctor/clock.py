"""This machine's clock against its peers', as their records tell (scenario 11)."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from primed.node.clocks import BELIEVED_PEERS, TOLERANCE_S
from primed.node.doctor.context import Context
from primed.node.doctor.results import ok, skip, warn
from primed.node.local_views import CheckView


def check(context: Context) -> Iterator[CheckView]:
    told = [
        peer.clock_offset_s
        for peer in (context.peers.peers if context.peers else ())
        if peer.clock_offset_s is not None
    ]
    if not told:
        untold = context.why_no_daemon if context.peers is None else "no peer told its time"
        yield skip("clock", untold)
        return
    offset_s = median(told)
    way = "behind" if offset_s > 0 else "ahead of"
    text = f"{abs(offset_s):.1f} s {way} {len(told)} peer{'s' if len(told) > 1 else ''}"
    if len(told) < BELIEVED_PEERS:
        text += " (too few to tell whose clock is wrong)"
    if abs(offset_s) <= TOLERANCE_S:
        yield ok("clock", text)
    else:
        remedy = "set the clock by the network: timedatectl set-ntp true"
        yield warn("clock", text, f"{remedy}; messages 5 minutes ahead are ignored by all")
