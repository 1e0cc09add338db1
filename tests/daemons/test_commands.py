"""Commands against live daemons: what they cost, what they refuse, and what they never print
(scenarios 40, 43, 44)."""

from __future__ import annotations

import pickle
import stat
from pathlib import Path

import pytest

from primed.node.demo.recipe import write_run_file
from primed.node.demo.swarm import LISTEN
from primed.node.views import RunsView

from .books import assert_no_secret_in
from .commands import Done, primed
from .running import RunningSwarm

pytestmark = pytest.mark.timeout(300)

CPU_MAX_S = 0.25


def asked(running: RunningSwarm, name: str, command: str, *options: str) -> Done:
    root = str(running[name].paths.root)
    done = primed(*command.split(), *options, "--data-dir", root)
    assert done.code == 0, done.err
    return done


@pytest.mark.parametrize("command", ["status", "peers", "rewards"])
def test_asking_costs_less_than_a_quarter_second_of_cpu(
    running: RunningSwarm, command: str
) -> None:
    costs = [asked(running, "worker-1", command).cpu_s for _ in range(3)]
    assert min(costs) <= CPU_MAX_S, costs


def test_scenario_43_no_key_in_logs_consoles_or_answers(running: RunningSwarm) -> None:
    run = running.run
    commands = ("status --waits", "peers", "id", "rewards", "runs list", f"runs show {run}")
    outputs = {
        f"{name} {command}": asked(running, name, command, "--json").out
        for name in ("worker-1", "verifier")
        for command in (*commands, f"verdicts {run}")
    }
    assert_no_secret_in(running, outputs)


def test_scenario_44_only_this_user_can_call_the_api(running: RunningSwarm) -> None:
    for node in running.swarm.nodes.values():
        found = node.paths.socket.stat()
        assert stat.S_ISSOCK(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o700
        for folder in (node.paths.root, node.paths.socket.parent, node.paths.logs):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_second_daemon_of_the_same_directory_says_who_holds_it(running: RunningSwarm) -> None:
    node = running["worker-2"]
    assert node.process is not None
    done = primed("start", "--data-dir", str(node.paths.root))
    assert done.code == 3
    assert str(node.process.pid) in done.err and "hint:" in done.err
    assert node.status().pid == node.process.pid


def test_scenario_43_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    root = str(tmp_path / "node")
    assert primed("init", "--data-dir", root).code == 0
    key = tmp_path / "node" / "identity.key"
    key.chmod(0o644)
    done = primed("start", "--data-dir", root, "--listen", LISTEN)
    assert done.code == 1
    assert "mode 0644" in done.err and f"chmod 600 {key}" in done.err


class Payload:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self._path,)


def test_scenario_40_a_pickle_is_no_checkpoint(running: RunningSwarm, tmp_path: Path) -> None:
    canary, file = tmp_path / "canary", tmp_path / "run.toml"
    (tmp_path / "base.bin").write_bytes(pickle.dumps(Payload(canary)))
    learner = running["learner"]
    write_run_file(file, tmp_path / "base.bin", [learner.peer], [learner.peer], steps=1)
    root = str(learner.paths.root)
    done = primed("runs", "publish", str(file), "--data-dir", root)
    assert done.code == 1 and "does not describe a model" in done.err
    assert not canary.exists()
    assert [run.run for run in learner.get("runs", RunsView).runs] == [running.run]
