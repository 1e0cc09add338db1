"""`primed demo`: a swarm of real daemons on this machine that learns, and catches a cheat.

One relay, one originator with a learner, three workers of which one is dishonest, two verifiers:
seven `primed start` processes that meet through libp2p on loopback. The demo only does what a
person could do by hand: make identities, write a run file, start daemons, publish, join, watch.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from primed.node.config import DISHONEST_VARIABLE
from primed.node.demo.outcome import Outcome, judge
from primed.node.demo.recipe import write_run_file
from primed.node.demo.swarm import LocalSwarm
from primed.node.views import RunView, StatusView
from primed.p2p.errors import UserError

ROLES = {
    "relay": ("relay",),
    "learner": ("originator", "learner"),
    "worker-1": ("worker",),
    "worker-2": ("worker",),
    "worker-3": ("worker",),
    "verifier-1": ("verifier",),
    "verifier-2": ("verifier",),
}
DISHONEST = "worker-3"
STEPS = 80
LEARN_S = 210.0  # for the run itself, after which the demo ends whatever was reached
CUT_S = 16.0  # the demo's epoch and a moment: by then a cut holds the last step
SETTLE_S = 45.0  # for that cut to reach everyone
POLL_S = 1.0
Report = Callable[[dict[str, StatusView], RunView | None, str], None]


def main(*, seed: int, folder: Path | None, as_json: bool) -> int:
    """Run the demo; 0 only if all goals were reached."""
    # The daemons are in sessions of their own: whoever ends the demo politely ends them too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with _folder(folder) as place:
        outcome = _run(place, seed, _silent if as_json else _live())
    if as_json:
        print(msgspec.json.encode(outcome).decode())
    else:
        from rich.console import Console

        from primed.node.demo.screen import summary

        Console().print(summary(outcome))
    return 0 if outcome.ok else 1


@contextmanager
def _folder(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UserError(f"{folder} is not empty", "give a new folder")
        yield folder.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="primed-demo-") as made:
        yield Path(made)


def _run(place: Path, seed: int, report: Report) -> Outcome:
    began = time.monotonic()
    swarm = LocalSwarm(place, ROLES)
    try:
        base = _begin_base(place, seed)
        swarm.start({DISHONEST: {DISHONEST_VARIABLE: "1"}})
        report({}, None, "warming the toy model up")
        _finish_base(base)
        run_file = place / "run.toml"
        write_run_file(
            run_file,
            place / "base.safetensors",
            learners=[swarm["learner"].peer],
            verifiers=[swarm["verifier-1"].peer, swarm["verifier-2"].peer],
            steps=STEPS,
        )
        run = swarm["learner"].client.post("publish", RunView, spec_path=str(run_file)).run
        for name, node in swarm.nodes.items():
            if name != "learner":
                node.join(run)
        views = _watch(swarm, run, report)
        peers = {name: node.text for name, node in swarm.nodes.items()}
        return judge("learner", views, peers, DISHONEST, time.monotonic() - began, seed)
    finally:
        swarm.stop()


def _begin_base(place: Path, seed: int) -> subprocess.Popen[str]:
    """The base checkpoint is trained while the daemons come up."""
    command = [sys.executable, "-m", "primed.training.warmstart", "--seed", str(seed)]
    command += ["--out", str(place / "base.safetensors")]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _finish_base(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=LEARN_S)
    if process.returncode:
        raise UserError(f"the toy model could not be made: {errors.strip()[-500:]}")


def _watch(swarm: LocalSwarm, run: str, report: Report) -> dict[str, RunView]:
    """Until the run has made its last step and the last batches are settled. Every daemon's view."""
    deadline = time.monotonic() + LEARN_S
    finished_at: float | None = None
    while True:
        views = {name: node.run(run) for name, node in swarm.nodes.items()}
        learner = views["learner"]
        now = time.monotonic()
        if learner.state == "finished" and finished_at is None:
            finished_at = now
        phase = "settling the ledger" if finished_at else f"learning, {learner.reason}"
        report({name: node.status() for name, node in swarm.nodes.items()}, learner, phase)
        if now > deadline or (finished_at and _is_settled(views, finished_at, now)):
            return views
        time.sleep(POLL_S)


def _is_settled(views: dict[str, RunView], finished_at: float, now: float) -> bool:
    """Whether a cut after the last step has reached every daemon with the same state root."""
    roots = {(view.cut, view.state_root) for view in views.values()}
    excluded = all(view.excluded for name, view in views.items() if name != DISHONEST)
    return now > finished_at + SETTLE_S or (
        len(roots) == 1 and excluded and now > finished_at + CUT_S
    )


def _silent(statuses: dict[str, StatusView], learner: RunView | None, phase: str) -> None:
    """With --json only the final object is printed."""


def _live() -> Report:
    from rich.console import Console
    from rich.live import Live

    from primed.node.demo.screen import render

    began = time.monotonic()
    live = Live(console=Console(), refresh_per_second=2)
    live.start()

    def report(statuses: dict[str, StatusView], learner: RunView | None, phase: str) -> None:
        live.update(render(statuses, learner, phase, time.monotonic() - began))

    return report
