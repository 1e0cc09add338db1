"""What the line has carried so far: measured traffic with other machines, a lower bound."""

from __future__ import annotations

from collections.abc import Iterator

from primed.node.doctor.context import Context
from primed.node.doctor.results import ok, skip
from primed.node.local_views import CheckView

LEAST_BYTES_S = 16 * 1024  # below, it was idle and says nothing


def check(context: Context) -> Iterator[CheckView]:
    if context.status is None:
        yield skip("bandwidth", context.why_no_daemon)
        return
    network = context.status.network
    down, up = network.peak_received_bytes_s, network.peak_sent_bytes_s
    if max(down, up) < LEAST_BYTES_S:
        yield skip("bandwidth", "too little traffic with other machines so far to tell")
    else:
        yield ok("bandwidth", f"at least {_mbit(down)} down and {_mbit(up)} up were reached")


def _mbit(bytes_s: float) -> str:
    return f"{bytes_s * 8 / 1e6:.1f} Mbit/s"
