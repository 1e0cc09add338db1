"""kill -9 of child processes: the supervisor starts them again, says why, and the run goes on."""

from __future__ import annotations

import os
import signal

import pytest

from primed.node.views import ChildView

from .books import assert_sound
from .commands import primed_json
from .running import RunningSwarm

pytestmark = pytest.mark.timeout(300)

OWNERS = {"worker-1": "engine", "learner": "learner", "verifier": "verifier"}


def child_of(running: RunningSwarm, name: str) -> ChildView:
    (child,) = running[name].status().children
    return child


def is_told(running: RunningSwarm, told: dict[str, str]) -> bool:
    """Collect problems that name a child; whether there is one of each kind."""
    for name in OWNERS:
        problems = running.problems(name)
        told.update({key: what for key, what in problems.items() if key.startswith("child-")})
    return len(told) == len(OWNERS)


def test_killed_children_are_restarted_with_their_reason_and_versions_go_on(
    running: RunningSwarm,
) -> None:
    before = {name: child_of(running, name) for name in OWNERS}
    for child in before.values():
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
    told: dict[str, str] = {}
    running.until(lambda: is_told(running, told), "the problem of each killed child")
    for kind in OWNERS.values():
        assert f"the {kind} process was killed (signal 9)" in told[f"child-{kind}"]
    for name, was in before.items():
        running.until(lambda: child_of(running, name).state in ("ready", "busy"), f"{name}'s child")  # noqa: B023
        child = child_of(running, name)
        assert child.restarts == was.restarts + 1 and child.pid != was.pid
        (shown,) = primed_json(running[name], "status")["children"]
        assert "was killed (signal 9)" in shown["reason"]
        assert f"child-{child.kind}" not in running.problems(name)
    running.goes_on(*OWNERS)
    assert_sound(running)
