"""Real daemons that are looked after: a crash of the network, a double of a key, hostile noise, and
what doctor, logs, bundle, metrics and systemd see of it."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from primed.node.config import load_config
from primed.node.daemon import Daemon
from primed.node.demo.swarm import LocalNode
from primed.node.doppelganger import EXIT_DUPLICATE
from primed.node.hosting import same_ports
from primed.node.lock import EXIT_HELD
from primed.node.log_files import parsed
from primed.node.logs import LINES_PER_MINUTE
from primed.node.redaction import forms_of
from primed.node.store import Store
from primed.node.views import StatusView
from primed.p2p import identity, limits
from primed.p2p.errors import UserError
from primed.p2p.host import Libp2pNetwork
from primed.protocols import hello
from primed.protocols.limits import LEASE_S

from ..daemons.hostile import Hostile, attacks
from .test_cli import primed
from .test_daemon_faults import metric

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
CROOKS = 24  # each is fined five times or more


@dataclass
class Relay:
    """A daemon with everything on that others meet."""

    node: LocalNode
    notified: socket.socket
    metrics: str

    @property
    def root(self) -> str:
        return str(self.node.paths.root)


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    folder = tmp_path_factory.mktemp("care")
    with socket.create_server(("127.0.0.1", 0)) as free:
        metrics = f"127.0.0.1:{free.getsockname()[1]}"
    node = LocalNode("relay", folder / "relay", ())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(folder / "notify"))
        environ = {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "60000000"}
        node.start(environ=environ, options=["--metrics-listen", metrics])
        node.wait_up()
        yield Relay(node, notified, metrics)
        node.stop()


def test_systemd_is_told(relay: Relay) -> None:
    relay.notified.settimeout(10)
    heard: set[bytes] = set()
    while len(heard) < 2:
        heard.add(relay.notified.recv(64))
    assert heard == {b"READY=1", b"WATCHDOG=1"}


def test_the_unit_waits_for_what_systemd_is_told() -> None:
    text = (Path(__file__).parents[2] / "docker/primed.service").read_text()
    unit = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and line[0] != "#")
    assert unit["Type"] == "notify" and unit["NotifyAccess"] == "main"
    assert int(unit["WatchdogSec"]) >= 60 and int(unit["TimeoutStopSec"]) > limits.STOP_S
    assert set(unit["RestartPreventExitStatus"].split()) >= {str(EXIT_HELD), str(EXIT_DUPLICATE)}


def test_a_worker_that_listens_nowhere_is_online_and_can_invite(
    relay: Relay, tmp_path: Path
) -> None:
    """Workers need no inbound connection at all."""
    worker, given = LocalNode("worker", tmp_path / "worker", ()), relay.node.address()
    nobody = f"/ip4/127.0.0.1/tcp/9/p2p/{worker.text[:-1]}2"
    worker._listen = ""
    worker.start([given, nobody])
    try:
        deadline = time.monotonic() + 60
        while (status := asked(worker)) is None or not is_settled(status):
            assert time.monotonic() < deadline and worker.is_running()
            time.sleep(0.2)
        network = status.network
        assert network.listen == () and network.bootstrap == (given, nobody)
        assert network.reachability == "outbound"
        assert "dials others" in network.reachability_consequence
        assert status.invite == f"primed://@{given},{nobody}"
        found = json.loads(primed("doctor", "--json", "--data-dir", str(worker.paths.root)).out)
        checks = {check["id"]: check for check in found["checks"]}
        assert checks["ports"]["result"] == "ok"
        assert checks["bootstrap"]["evidence"].startswith("1 of 2 bootstrap peers answer")
        while not (waits := [wait for wait in worker.status().waits if "peer" in wait.name]):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert "127.0.0.1/tcp/9: Connection refused" in waits[0].waiting_for
    finally:
        worker.stop()


def is_settled(status: StatusView) -> bool:
    network = status.network
    return network.state == "online" and network.reachability != "unknown"


def asked(node: LocalNode) -> StatusView | None:
    try:
        return node.status()
    except UserError:
        return None


def test_a_second_daemon_with_the_same_key_gives_way(relay: Relay, tmp_path: Path) -> None:
    """Scenario 16: it has signed nothing, and ends with code 4 and a sentence."""
    early = LocalNode("early", tmp_path / "early", ())
    early.start([relay.node.address()])
    early.wait_up()
    _until(lambda: "alone with this key" in log_of(early), 20)
    late = LocalNode("late", tmp_path / "late", ())
    shutil.copyfile(early.paths.identity, late.paths.identity)
    late.start([relay.node.address()])
    try:
        assert late.process is not None and late.process.wait(2 * LEASE_S) == 4
        console = (late.paths.logs / "console.log").read_text()
        assert "is in use by another daemon" in console and "has signed nothing" in console
        assert "Traceback" not in console
        assert "alone with this key" not in log_of(late)
        assert early.is_running() and early.status().peer == early.text
    finally:
        late.stop()
        early.stop()


def log_of(node: LocalNode) -> str:
    path = node.paths.logs / "daemon.log"
    return path.read_text() if path.exists() else ""


def _until(condition: object, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.trio
async def test_the_network_restarts_with_the_same_key_and_port(
    relay: Relay, tmp_path: Path
) -> None:
    """A crash inside of it; the daemon goes on, and so do its views and its API."""
    node = LocalNode("crashing", tmp_path / "node", ())
    flags = {"listen": [LOOPBACK], "bootstrap": [relay.node.address()]}
    store = Store(node.paths.database)
    me = identity.load(node.paths.identity)
    daemon = Daemon(load_config(node.paths, flags, {}), node.paths, me, store)
    services, up = daemon.services, trio.Event()
    seen: list[StatusView] = []

    def announce(view: StatusView) -> None:
        seen.append(view)
        up.set()

    async def connected() -> None:
        while not services.network.peers():
            await trio.sleep(0.05)

    async def crash() -> None:
        raise RuntimeError("a crash inside of the network")

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(daemon.serve, None, announce)
            await up.wait()
            await connected()
            before = services.network.listen_addresses()
            network = services.network
            assert isinstance(network, Libp2pNetwork)
            inside = network._nursery
            assert inside is not None
            inside.start_soon(crash)
            while not (problems := services.problems.views()):
                await trio.sleep(0.01)
            assert [problem.name for problem in problems] == ["network-failed"]
            assert "a crash inside of the network (RuntimeError)" in problems[0].what
            assert services.network.state()[0] == "connecting" and not services.network.is_running
            assert services.addresses() == before
            await connected()
            assert services.network.listen_addresses() == before
            status = await trio.to_thread.run_sync(node.status)
            assert status.network.state == "online" and status.peer == node.text == seen[0].peer
            assert status.problems == () and status.state == "ok"
            daemon._stop.set()
    store.close()


def test_the_port_is_kept_if_it_is_clear() -> None:
    actual = ("/ip4/10.0.0.1/tcp/77/p2p/x", "/ip4/10.0.0.2/tcp/77/p2p/x")
    assert same_ports(["/ip4/0.0.0.0/tcp/0"], actual) == ("/ip4/0.0.0.0/tcp/77",)
    assert same_ports(["/ip4/0.0.0.0/tcp/5"], actual) == ("/ip4/0.0.0.0/tcp/5",)
    assert same_ports(["/ip4/1.1.1.1/tcp/0"], ("/ip4/1.1.1.1/tcp/7", "/ip6/::1/tcp/8")) == (
        "/ip4/1.1.1.1/tcp/0",
    )


def test_connections_that_send_rubbish_cost_no_line(relay: Relay) -> None:
    host, port = "127.0.0.1", int(relay.node.address().split("/")[4])
    before = len(log_of(relay.node).splitlines())
    for number in range(300):
        with socket.create_connection((host, port), 5) as connection:
            connection.sendall(b"\x13/multistream/1.0.0\n" + os.urandom(number % 64))
    assert relay.node.status().peer == relay.node.text
    assert len(log_of(relay.node).splitlines()) - before < 5


def test_noise_does_not_fill_the_log(tmp_path: Path) -> None:
    """Scenario 25: crooks are fined until they are banned, each time with a line. So many are
    written; that there were more is said, and how many more."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        metrics = f"127.0.0.1:{free.getsockname()[1]}"
    node, began = LocalNode("fined", tmp_path / "node", ()), time.monotonic()
    node.start(options=["--metrics-listen", metrics])
    try:
        node.wait_up()
        trio.run(send_crooks, node.address())
        left_out = metric(metrics, "log_lines_left_out_total")
        assert node.status().network.handler_errors == 0
    finally:
        assert node.stop() == 0
    minutes = 1 + int((time.monotonic() - began) / 60)
    lines = [parsed(line) or {} for line in log_of(node).splitlines()]
    events = [(line["logger"], str(line["event"])) for line in lines]
    fines = [event for logger, event in events if logger == "primed.p2p.host"]
    assert CROOKS < len(fines) <= (LINES_PER_MINUTE + 1) * minutes
    assert "more lines like the last are only counted for a minute" in fines
    told = [event for logger, event in events if logger == "primed.logs"]
    assert left_out == sum(int(event.partition(" log lines were left out: ")[0]) for event in told)
    assert left_out > 0 and all("%s loses %d points" in event for event in told)
    assert all(line["level"] != "error" for line in lines)


async def send_crooks(address: str) -> None:
    async def send(number: int) -> None:
        crook = Hostile()
        async with at_once, crook.network.running([LOOPBACK], []):
            await crook.attack(address, hello.PROTOCOL, attacks(random.Random(number)))

    at_once = trio.CapacityLimiter(6)
    async with trio.open_nursery() as nursery:
        for number in range(CROOKS):
            nursery.start_soon(send, number)


def test_doctor_logs_and_bundle_of_a_running_daemon(relay: Relay, tmp_path: Path) -> None:
    """Scenarios 43 to 45."""
    done = primed("doctor", "--json", "--data-dir", relay.root)
    checks = {each["id"]: each for each in done.json["checks"]}  # type: ignore[attr-defined]
    assert done.code == 1, done.out  # alone in its swarm
    assert checks["daemon-version"]["result"] == checks["api"]["result"] == "ok"
    assert checks["sockets"]["result"] == "ok", checks["sockets"]
    assert "alone with this key" in primed("logs", "--data-dir", relay.root).out
    out = tmp_path / "b.tar.gz"
    done = primed("bundle", "--out", str(out), "--json", "--data-dir", relay.root)
    assert done.code == 0 and done.json["dropped"] == []
    forms = forms_of(identity.load(relay.node.paths.identity).seed)
    with tarfile.open(out) as archive:
        members = [archive.extractfile(member) for member in archive]
        contents = [member.read() for member in members if member is not None]
    assert any(b'"pid": ' in content for content in contents)
    assert not any(form in content for form in forms for content in contents)


def test_metrics_say_what_the_status_says(relay: Relay) -> None:
    with urllib.request.urlopen(f"http://{relay.metrics}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    names = ("waits_open", "problems", "disk_free_bytes", "network_restarts_total")
    for name in (*names, "log_lines_left_out_total", "process_open_fds", "waits_stuck_total"):
        assert f"\nprimed_{name} " in text
