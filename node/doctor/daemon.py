"""What the running daemon itself complains about."""

from __future__ import annotations

from collections.abc import Iterator

from primed.node.doctor.context import Context
from primed.node.doctor.results import fail, ok, skip, warn
from primed.node.local_views import CheckView


def check(context: Context) -> Iterator[CheckView]:
    status = context.status
    if context.silent is not None:
        yield fail("daemon", context.silent.message, context.silent.hint)
        return
    if status is None:
        yield skip("daemon", context.why_no_daemon)
        return
    for problem in status.problems:
        yield warn(f"daemon-{problem.name}", problem.what, problem.fix)
    if not status.problems:
        yield ok("daemon", f"process {status.pid} answers and has no problems")
    if status.network.state == "online":
        yield ok("network", status.network.reason)
    else:
        remedy = "give it a bootstrap peer or an invite: primed start --join"
        yield warn("network", f"{status.network.state}: {status.network.reason}", remedy)
