"""A swarm of real daemons that takes part in one run, and what the tests wait for and do to it.

Small numbers make versions come about once a second: batches of eight rollouts, one batch a step,
epochs of two seconds. Every wait ends, and says what did not come.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest
import tomlkit

from primed.node.demo.recipe import write_run_file
from primed.node.demo.swarm import LocalNode, LocalSwarm
from primed.node.views import RewardsView, RunView
from primed.verify.runspec import Parameters

PARAMETERS = Parameters(
    max_staleness=4,
    batches_per_step=1,
    probation_batches=2,
    audit_rate=0.25,
    vest_batches=4,
    vest_epochs=1,
    epoch_s=2,
    claim_s=0.5,
    verdict_s=4,
    silent_learner_s=60,
    anchor_every=4,
)
POLL_S = 0.1
WAIT_S = 60.0
T = TypeVar("T")


class RunningSwarm:
    def __init__(self, swarm: LocalSwarm, run: str) -> None:
        self.swarm = swarm
        self.run = run  # its id in hex

    def __getitem__(self, name: str) -> LocalNode:
        return self.swarm[name]

    def until(self, look: Callable[[], T | None], what: str, at_most_s: float = WAIT_S) -> T:
        """The first result of `look` that is neither None nor False. Fails with `what` did not
        come, and with what each daemon says meanwhile."""
        deadline = time.monotonic() + at_most_s
        while time.monotonic() < deadline:
            found = look()
            if found is not None and found is not False:
                return found
            time.sleep(POLL_S)
        pytest.fail(f"{what} did not come within {at_most_s:.0f} s\n{self._told()}")

    def _told(self) -> str:
        lines = []
        for name, node in self.up().items():
            status = node.status()
            about = (*status.roles, *status.children, *status.waits, *status.problems)
            lines += [f"{name}: network {status.network.reason}", *map(str, about)]
        return "\n".join(lines)

    def up(self) -> dict[str, LocalNode]:
        """The daemons that run now, by name."""
        return {name: node for name, node in self.swarm.nodes.items() if node.is_running()}

    def join(self, *names: str) -> None:
        for name in names:
            self[name].join(self.run)

    def view(self, name: str) -> RunView:
        return self[name].run(self.run)

    def step(self, name: str) -> int:
        """Of the newest version that the daemon knows; -1 before it knows one."""
        newest = self.view(name).newest
        return -1 if newest is None else newest.step

    def goes_on(self, *names: str, steps: int = 2) -> None:
        """Wait until these daemons know versions that are newer by so many steps."""
        for name in names:
            goal = self.step(name) + steps
            self.until(lambda: self.step(name) >= goal, f"step {goal} at {name}")  # noqa: B023

    def rewards(self, name: str) -> RewardsView:
        return self[name].get("rewards", RewardsView, run=self.run, limit=1000)

    def problems(self, name: str) -> dict[str, str]:
        """Open problems of a daemon, and what to do about them is never empty."""
        problems = self[name].status().problems
        assert all(problem.what and problem.fix for problem in problems)
        return {problem.name: problem.what for problem in problems}


def publish(
    swarm: LocalSwarm,
    folder: Path,
    base: Path,
    *,
    learner: str,
    verifier: str,
    config: Mapping[str, int | float | bool] | None = None,
    parameters: Parameters = PARAMETERS,
    toy: bool = True,
) -> RunningSwarm:
    """Publish a run by a started daemon. config: of the model, where it differs from the demo's."""
    path = folder / "run.toml"
    write_run_file(path, base, [swarm[learner].peer], [swarm[verifier].peer], 0, parameters)
    document: dict[str, Any] = tomlkit.parse(path.read_text())
    document["toy"] = toy
    document["sampling"].update(groups=2, group_size=4)
    document["model"]["config"].update(config or {})
    path.write_text(tomlkit.dumps(document))
    return RunningSwarm(
        swarm, swarm[learner].client.post("publish", RunView, spec_path=str(path)).run
    )


def kill_when(node: LocalNode, look: Callable[[], T | None], what: str) -> T:
    """kill -9 the daemon in a state in which `look` finds something; returns what it finds.

    The daemon is stopped (SIGSTOP) to look again, so that the state cannot pass meanwhile.
    """
    found = freeze_when(node, look, what)
    node.kill()
    return found


def freeze_when(node: LocalNode, look: Callable[[], T | None], what: str) -> T:
    """As `kill_when`, but leaves the daemon stopped."""
    assert node.process is not None
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        if look() is not None:
            os.kill(node.process.pid, signal.SIGSTOP)
            time.sleep(0.01)  # a write in flight ends or does not
            if (found := look()) is not None:
                return found
            os.kill(node.process.pid, signal.SIGCONT)
        time.sleep(0.002)
    pytest.fail(f"{what} did not come within {WAIT_S:.0f} s")


def is_alive(pid: int | None) -> bool:
    """Whether the process runs; one that ended and that nobody has waited for does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
