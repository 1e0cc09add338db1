"""What the commands cost against a live daemon, and what they never print (scenarios 43, 44)."""

from __future__ import annotations

import stat

import pytest

from .books import assert_no_secret_in
from .commands import Done, primed
from .running import RunningSwarm

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
