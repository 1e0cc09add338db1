"""Why children stop, and how patient the supervisor is with them.

A stop has one of four kinds, which decide about a restart, and one sentence, which log, metric and
`primed status` say in the same words.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Literal

from primed.training.messages import Failed

StopKind = Literal["oom", "crash", "hang", "bad_config"]
FailureKind = Literal[
    "oom", "crash", "hang", "bad_config", "bad_input", "disk", "bug", "unavailable"
]


class ChildFailed(Exception):
    """A request was not served: by the child's own word, or because the child stopped."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind: FailureKind = kind
        self.message = message


@dataclass(frozen=True)
class Stop:
    """Why an incarnation ended; the reason reads on after the child's name."""

    kind: StopKind
    reason: str


@dataclass(frozen=True)
class Policy:
    """How patient the supervisor is. Times in seconds."""

    ready_s: float = 120.0  # from the start of the process to Ready
    missed_heartbeats: int = 3
    first_pause_s: float = 1.0  # doubles at each stop
    longest_pause_s: float = 60.0
    forgiven_after_s: float = 300.0  # a child that ran this long begins at the first pause again
    grace_s: float = 3.0  # to leave by itself, then again after SIGTERM


def stop_of(status: int | None, otherwise: str) -> Stop:
    """The stop that an exit status tells (as Popen gives it); `otherwise` if it still runs."""
    if status is None:
        return Stop("crash", f"was ended: {otherwise}")
    if status in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return Stop("oom", "was killed (signal 9), as the kernel does when memory runs out")
    if status < 0:
        return Stop("crash", f"crashed ({signal.Signals(-status).name})")
    return Stop("crash", f"ended by itself with exit code {status}")


def stop_of_failure(failed: Failed) -> Stop:
    """The stop that follows from a child's own last word."""
    if failed.kind == "bad_config":
        return Stop("bad_config", f"cannot work as configured: {failed.message}")
    if failed.kind == "oom":
        return Stop("oom", f"ran out of memory: {failed.message}")
    return Stop("crash", f"gave up: {failed.message}")
