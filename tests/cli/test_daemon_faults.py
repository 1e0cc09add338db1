"""Real daemons under what befalls a machine: no files left to open, a full disk, a stop of a minute."""

from __future__ import annotations

import os
import resource
import signal
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from primed.node.demo.swarm import LocalNode
from primed.node.views import PeersView
from primed.p2p import limits
from primed.p2p.errors import UserError

from ..unit.small_disk import run_on_small_disk

CONNECTS, FILES = 400, 256
STOPPED_S = 60.0


def until(condition: Callable[[], bool], timeout_s: float) -> float:
    """Seconds it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s
        time.sleep(0.1)
    return time.monotonic() - began


def pid_of(node: LocalNode) -> int:
    assert node.process is not None
    return node.process.pid


def files_of(node: LocalNode) -> int:
    return len(os.listdir(f"/proc/{pid_of(node)}/fd"))


def peers_of(node: LocalNode) -> dict[str, float]:
    """Who is connected, with what score."""
    return {peer.peer: peer.score for peer in node.get("peers", PeersView).peers}


@contextmanager
def limited_files(count: int) -> Iterator[None]:
    """For processes that are started meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def metric(address: str, name: str) -> float:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"primed_{name} ")))


@contextmanager
def connects(node: LocalNode, count: int) -> Iterator[list[socket.socket]]:
    host, port = node.address().split("/")[2:5:2]
    held = []
    try:
        for _ in range(count):
            with suppress(OSError):
                held.append(socket.create_connection((host, int(port)), 5))
        yield held
    finally:
        for raw in held:
            raw.close()


def test_scenario_13_a_daemon_of_256_files_refuses_counts_and_goes_on(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        metrics = f"127.0.0.1:{free.getsockname()[1]}"
    node, friend = LocalNode("small", tmp_path / "a", ()), LocalNode("b", tmp_path / "b", ())
    with limited_files(FILES):
        node.start(options=["--metrics-listen", metrics])
    try:
        node.wait_up()
        before = files_of(node)
        with connects(node, CONNECTS):
            until(lambda: metric(metrics, "refused_connections_total") >= CONNECTS - 50, 30)
            assert files_of(node) <= before + limits.HOME.connections + 5 < FILES
            assert node.status().network.handler_errors == 0
        until(lambda: files_of(node) <= before + 2, 30)
        friend.start([node.address()])
        friend.wait_up()
        until(lambda: friend.text in peers_of(node), 30)
    finally:
        friend.stop()
        node.stop()


ON_A_SMALL_DISK = """
import subprocess, sys, time
from contextlib import suppress
from pathlib import Path
from primed.node.demo.swarm import LocalNode

def until(what, condition):
    deadline = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < deadline, (what, node.status())
        time.sleep(0.2)

def problems():
    return [problem.name for problem in node.status().problems]

def primed(*arguments):
    command = [sys.executable, "-m", "primed.node", *arguments, "--data-dir", str(disk / "node")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)

disk = Path(sys.argv[1])
node = LocalNode("full", disk / "node", ())
node.start()
node.wait_up()
pid = node.status().pid
until("no disk problem", lambda: "disk" not in problems())
ballast = disk / "ballast"

def fill():
    for size_bytes in (1 << 16, 1):
        with suppress(OSError), ballast.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(size_bytes))

fill()
until("disk problem", lambda: "disk" in problems())
print(node.status().state)
time.sleep(3)
until("still answers", lambda: node.status().pid == pid)
node.kill()
noted = node.paths.sessions.read_bytes()
fill()
node.start()
node.wait_up()
until("disk problem of the next", lambda: "disk" in problems())
print(node.status().state, node.paths.sessions.read_bytes() == noted)
ballast.unlink()
until("room again", lambda: "disk" not in problems())
until("session noted", lambda: node.paths.sessions.read_bytes() != noted)
console = node.paths.logs / "console.log"
print(node.stop(), console.read_text().count("Traceback"))
fill()
refused = primed("start")
print(refused.returncode, "no room on the disk" in refused.stderr, "Traceback" in refused.stderr)
settings = primed("config", "set", "threads", "2")
bundle = primed("bundle", "--out", str(disk / "b.tar.gz"))
print([(each.returncode, "no room on the disk" in each.stderr) for each in (settings, bundle)])
print((disk / "b.tar.gz").exists())
ballast.unlink()
node.start()
print(node.wait_up().pid != pid, node.stop())
"""


def test_scenario_12_a_daemon_on_a_full_disk_says_so_and_goes_on_with_room(tmp_path: Path) -> None:
    out = run_on_small_disk(tmp_path / "disk", ON_A_SMALL_DISK, mib=150, timeout_s=150)
    assert out.splitlines() == [
        "degraded: disk",
        "degraded: disk True",  # the same of one that is started meanwhile; its session comes later
        "0 0",
        "1 True False",  # the store cannot be opened: said, and nobody is told to move it away
        "[(1, True), (1, True)]",
        "False",
        "True 0",
    ]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_scenario_2_a_daemon_stopped_for_a_minute_is_given_up_and_comes_back(
    tmp_path: Path,
) -> None:
    relay, node = LocalNode("relay", tmp_path / "a", ()), LocalNode("node", tmp_path / "b", ())
    relay.start()
    relay.wait_up()
    try:
        node.start([relay.address()])
        node.wait_up()
        until(lambda: node.text in peers_of(relay), 30)
        began = time.monotonic()
        os.kill(pid_of(node), signal.SIGSTOP)
        with pytest.raises(UserError, match=f"process {pid_of(node)}, is stopped") as told:
            node.status()
        assert f"kill -CONT {pid_of(node)}" in told.value.hint
        assert time.monotonic() - began < 10  # no waiting for an answer that cannot come
        until(
            lambda: node.text not in peers_of(relay),
            limits.PING_INTERVAL_S + limits.PING_TIMEOUT_S + 20,
        )
        time.sleep(max(0.0, STOPPED_S - (time.monotonic() - began)))
        os.kill(pid_of(node), signal.SIGCONT)
        until(lambda: node.text in peers_of(relay) and relay.text in peers_of(node), 60)
        assert peers_of(relay)[node.text] == peers_of(node)[relay.text] == 0.0
        until(lambda: node.status().state == "ok", 30)
        assert node.is_running()  # and does not take its former self for a double
        assert not list(node.paths.logs.glob("tasks-*.txt"))  # nor the minute for a stuck wait
        assert node.status().network.handler_errors == relay.status().network.handler_errors == 0
    finally:
        node.stop()
        relay.stop()
