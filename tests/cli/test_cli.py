"""The command line as a user runs it: real processes, a real socket, exit codes and CPU time."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from primed.p2p import identity

NODE = Path(__file__).with_name("node_for_tests.py")
PRIMED = Path(sys.executable).with_name("primed")
CPU_MAX_S = 0.25


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, object]:
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value


def primed(*arguments: str, **environ: str) -> Done:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PRIMED_")}
    done = subprocess.run(
        [PRIMED, *arguments],
        env=kept | {"COLUMNS": "200"} | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("cli") / "node"
    process = subprocess.Popen([sys.executable, NODE, root], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    yield str(root)
    process.kill()
    process.communicate()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            "status",
            ["up 1 h 6 min", "online", "run toy", "step 12, 1 step behind", "0.250 → 0.750"],
        ),
        ("status", ["batch [7]", "1 restart; last time it was killed (signal 9)", "1 open wait"]),
        ("status", ["problem one peer only", "do: give a bootstrap peer", "NOT SYBIL-RESISTANT"]),
        ("status --waits", ["waits for verdict on batch 6 (verifiers)", "1 min 58 s"]),
        ("peers", ["12D3KooWDpJ7", "out", "1 min 30 s", "relay", "streams: busy with 2"]),
        ("id", ["12D3KooWDpJ7"]),
        ("runs list", ["toy", "worker", "12"]),
        ("runs show toy", ["primed://abab", "excluded: two rejects", "cdcdcdcd"]),
        (
            "rewards --limit 2",
            ["1.5 credits final, 2.25 pending", "rejected", "sampling", "12 s left"],
        ),
        ("verdicts", ["reject", "proof_distance 12.5"]),
    ],
)
def test_screens_say_what_matters(node: str, command: str, words: list[str]) -> None:
    done = primed(*command.split(), "--data-dir", node)
    assert (done.code, done.err) == (0, "")
    for word in words:
        assert word in done.out


@pytest.mark.parametrize(
    ("command", "key"),
    [
        ("status", "uptime_s"),
        ("peers", "peers"),
        ("id", "peer"),
        ("runs list", "runs"),
        ("runs show abababab", "recent"),
        ("rewards", "batches"),
        ("verdicts", "verdicts"),
        ("version", "version"),
    ],
)
def test_json_is_one_object(node: str, command: str, key: str) -> None:
    done = primed(*command.split(), "--json", PRIMED_DATA_DIR=node)
    assert (done.code, done.err) == (0, "")
    assert key in done.json


def test_joining_and_publishing(node: str, tmp_path: Path) -> None:
    done = primed(
        "runs", "join", "ab" * 32, "--roles", "worker,verifier", "--json", "--data-dir", node
    )
    assert done.json["roles"] == ["worker", "verifier"]
    (tmp_path / "run.toml").write_text("")
    done = primed("runs", "publish", str(tmp_path / "run.toml"), "--json", "--data-dir", node)
    assert done.json["roles"] == ["originator"]
    done = primed("runs", "publish", str(tmp_path / "absent.toml"), "--data-dir", node)
    assert done.code == 1 and "there is no file" in done.err


SHOWN = "snapshot of step 12"


def test_status_shows_payloads_on_their_way_with_rate_and_estimate(node: str) -> None:
    primed("runs", "join", "arriving-3", "--data-dir", node)
    done = primed("status", "--data-dir", node)
    assert f"{SHOWN} [#####---------------]  25% 16.0 MiB of 64.0 MiB, 2.0 MiB/s, 24 s" in done.out
    assert "3 of 4 leaves missing; pulling from 3 peers" in done.out
    primed("runs", "join", "arriving-0", "--data-dir", node)
    assert SHOWN not in primed("status", "--data-dir", node).out


def test_join_waits_for_the_weights_and_tells_how_far_they_are(node: str) -> None:
    join = ("runs", "join", "arriving-4", "--wait", "--data-dir", node)
    done = primed(*join)
    assert done.code == 0 and "run toy" in done.out
    lines = done.err.splitlines()
    assert lines[0] == f"{SHOWN}: 0.0 MiB of 64.0 MiB, 2.0 MiB/s, 32 s left"
    assert [line.split()[4] for line in lines if SHOWN in line] == ["0.0", "16.0", "32.0", "48.0"]
    done = primed(*join, "--json")
    assert done.err == "" and done.json["transfers"] == []


def test_join_shows_a_bar_on_a_terminal(node: str) -> None:
    ours, its = os.openpty()
    command = [str(PRIMED), "runs", "join", "arriving-3", "--wait", "--data-dir", node]
    environ = os.environ | {"COLUMNS": "120", "TERM": "xterm"}
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=its)
    os.close(its)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal is closed at the other end
        while data := os.read(ours, 65536):
            shown += data
    os.close(ours)
    assert process.wait(60) == 0
    for word in (SHOWN, "\u2501", "50 %", "32.0 MiB of 64.0 MiB, 2.0 MiB/s, 16 s left"):
        assert word in shown.decode()


def test_a_wait_for_weights_ends_and_says_what_goes_on(node: str) -> None:
    done = primed("runs", "join", "arriving-9", "--wait", "--timeout", "0.5", "--data-dir", node)
    assert done.code == 1 and "run toy is not ready after 0.5 s" in done.err
    assert "goes on without this command" in done.err
    primed("runs", "join", "arriving-0", "--data-dir", node)


def test_errors_have_a_sentence_a_hint_and_a_code(node: str, tmp_path: Path) -> None:
    done = primed("runs", "show", "zz", "--data-dir", node)
    assert done.code == 1
    assert done.err == "error: no run 'zz'\n  hint: primed runs list shows those that are known\n"
    done = primed("runs", "show", "zz", "--json", "--data-dir", node)
    assert done.code == 1 and done.json["error"] == "no run 'zz'"
    assert primed("runs", "join", "x", "--roles", "held", "--data-dir", node).code == 3
    done = primed("status", "--data-dir", str(tmp_path / "none"))
    assert done.code == 1 and "start one: primed start --data-dir" in done.err
    done = primed("rewards", "--limit", "0", "--data-dir", node)
    assert done.code == 1 and "limit must be" in done.err


@pytest.mark.parametrize("arguments", [["nope"], ["status", "--wait"], ["rewards", "--limit", "x"]])
def test_wrong_usage_is_code_2(arguments: list[str]) -> None:
    done = primed(*arguments)
    assert done.code == 2 and "Traceback" not in done.err


def test_a_bug_of_the_daemon_shows_neither_traceback_nor_values(node: str) -> None:
    """Scenario 43: what an exception says stays in the daemon's log."""
    done = primed("runs", "show", "bug", "--data-dir", node)
    assert done.code == 1
    assert "canary-secret" not in done.err + done.out
    assert "Traceback" not in done.err and "because of a bug" in done.err


@pytest.mark.parametrize("command", ["status", "peers", "rewards"])
def test_looking_costs_less_than_a_quarter_second_of_cpu(node: str, command: str) -> None:
    primed(command, "--data-dir", node)  # compiles the modules
    costs = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert primed(command, "--data-dir", node).code == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(costs) <= CPU_MAX_S


def test_the_commands_that_look_import_nothing_heavy(node: str) -> None:
    code = (
        "import sys; from primed.node.cli import run; run(['status', '--data-dir', sys.argv[1]]);"
        "print(sys.modules.keys() & {'torch', 'libp2p', 'trio', 'starlette', 'numpy', 'rich'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, node], capture_output=True, text=True, check=False
    )
    assert done.stdout.endswith("set()\n"), done.stdout + done.stderr


def test_a_closed_pipe_is_no_error(node: str) -> None:
    shell = f"'{PRIMED}' rewards --limit 3 --data-dir '{node}' | true"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_init_makes_an_identity_and_settings(tmp_path: Path) -> None:
    root = str(tmp_path / "new")
    done = primed("init", "--data-dir", root, "--threads", "2", "--roles", "worker", "--json")
    assert done.code == 0
    assert str(done.json["peer"]).startswith("12D3KooW")
    text = (tmp_path / "new" / "primed.toml").read_text()
    assert 'roles = ["worker"]' in text and "threads = 2" in text
    again = primed("init", "--data-dir", root)
    assert again.code == 1 and "exists already" in again.err


def test_init_finds_wrong_values_before_it_writes(tmp_path: Path) -> None:
    done = primed("init", "--data-dir", str(tmp_path / "new"), "--listen", "4101")
    assert done.code == 1 and "listen from --listen" in done.err
    assert not (tmp_path / "new" / "primed.toml").exists()


def test_a_second_daemon_exits_with_3(node: str) -> None:
    """Scenario 16."""
    done = primed("start", "--data-dir", node)
    assert done.code == 3
    assert "is held by process" in done.err and "primed stop" in done.err


def test_stop_waits_for_the_end(tmp_path: Path) -> None:
    root = tmp_path / "node"
    process = subprocess.Popen([sys.executable, NODE, root], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    done = primed("stop", "--data-dir", str(root))
    assert (done.code, done.out) == (0, f"stopped (process {process.pid})\n")
    assert process.wait(10) == 0
    process.stdout.close()
    assert not (root / "api.sock").exists()
    assert primed("stop", "--data-dir", str(root)).code == 1


def test_a_killed_daemon_is_told_apart_from_a_running_one(tmp_path: Path) -> None:
    root = tmp_path / "node"
    process = subprocess.Popen([sys.executable, NODE, root], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (root / "api.sock").exists()
    done = primed("status", "--data-dir", str(root))
    assert done.code == 1 and "no daemon runs" in done.err


def test_the_doctor_fails_for_a_stopped_daemon_and_says_how_it_goes_on(tmp_path: Path) -> None:
    root = tmp_path / "node"
    process = subprocess.Popen([sys.executable, NODE, root], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    try:
        process.send_signal(signal.SIGSTOP)
        done = primed("doctor", "--json", "--data-dir", str(root))
    finally:
        process.kill()
        process.communicate()
    checks = {each["id"]: each for each in done.json["checks"]}  # type: ignore[attr-defined]
    assert done.code == 2 and checks["daemon"]["result"] == "fail"
    assert f"kill -CONT {process.pid}" in checks["daemon"]["remedy"]
    assert "is stopped" in checks["clock"]["evidence"]


def test_a_port_in_use_is_said_in_a_sentence(tmp_path: Path) -> None:
    """The real daemon: what ends it comes out of its tasks as a group of errors."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}"
        done = primed("start", "--data-dir", str(tmp_path / "node"), "--listen", listen)
    assert done.code == 1
    assert "already in use" in done.err and "Traceback" not in done.err


def test_a_real_daemon_starts_answers_and_stops(tmp_path: Path) -> None:
    root = str(tmp_path / "node")
    command = [
        str(PRIMED),
        "start",
        "--json",
        "--data-dir",
        root,
        "--listen",
        "/ip4/127.0.0.1/tcp/0",
    ]
    daemon = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert daemon.stdout is not None and daemon.stdout.readline() == "{\n"
        status = primed("status", "--json", "--data-dir", root).json
        assert status["pid"] == daemon.pid and str(status["invite"]).startswith("primed://@/ip4/")
        assert primed("stop", "--data-dir", root).code == 0
        _, err = daemon.communicate(timeout=20)
        assert daemon.returncode == 0 and "Traceback" not in err
    finally:
        daemon.kill()
        daemon.communicate()
    kept = [path.read_bytes() for path in (tmp_path / "node").rglob("*") if path.is_file()]
    seed = identity.load(tmp_path / "node" / "identity.key").seed
    assert not any(seed in content or seed.hex().encode() in content for content in kept)
