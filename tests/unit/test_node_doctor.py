"""The doctor's checks: each finds what it is for, on real files, sockets and answers."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil  # type: ignore[import-untyped]
import pytest

from primed.node import doctor
from primed.node.config import load_config
from primed.node.doctor import (
    bandwidth,
    bootstrap,
    clock,
    daemon,
    disk,
    exposure,
    gpu,
    keys,
    memory,
    native,
    open_files,
    ports,
    reachability,
    settings,
    software,
    torch_build,
)
from primed.node.doctor.context import Context, gather
from primed.node.local_views import CheckView, DoctorView
from primed.node.lock import held
from primed.node.paths import Paths
from primed.node.views import NetworkView, PeersView, PeerView, ProblemView, RoleView, StatusView
from primed.p2p import identity

PEER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


def context_of(
    tmp_path: Path,
    *,
    status: StatusView | None = None,
    peers: tuple[PeerView, ...] = (),
    **flags: object,
) -> Context:
    paths = Paths(tmp_path / "node")
    paths.create()
    view = PeersView(peers=peers) if status else None
    config = load_config(paths, flags, {})
    return Context(paths, config, None, status, view, "no daemon runs")


def status_of(pid: int = 1, **network: object) -> StatusView:
    found = NetworkView(state="online", reason="", listen=(), peers=0)
    found = msgspec.structs.replace(found, **network)
    return StatusView(version="0.1.0", peer=PEER, pid=pid, data_dir="", uptime_s=1.0, network=found)


def peer_of(**fields: object) -> PeerView:
    made = PeerView(
        peer=PEER, addresses=("/ip4/192.0.2.1/tcp/1",), direction="out", connected_s=1, score=0
    )
    return msgspec.structs.replace(made, **fields)


def only(results: Iterator[CheckView]) -> CheckView:
    (result,) = results
    return result


def test_the_exit_code_follows_the_worst() -> None:
    for failures, warnings, code in ((0, 0, 0), (0, 2, 1), (1, 2, 2)):
        view = DoctorView(checks=(), warnings=warnings, failures=failures, daemon=False)
        assert doctor.exit_code(view) == code


def test_a_broken_check_is_a_finding(tmp_path: Path) -> None:
    def check(context: Context) -> Iterator[CheckView]:
        yield only(daemon.check(context))
        raise ZeroDivisionError("oh")

    (found,) = doctor._made(check, context_of(tmp_path))
    assert found.result == "warn" and "ZeroDivisionError: oh" in found.evidence


# ---- bootstrap and ports, over real sockets ------------------------------------------------


@contextmanager
def answering(answer: bytes | None) -> Iterator[str]:
    """A listener that answers so, or not at all; its multiaddr."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                if answer is not None:
                    connection.sendall(answer)
                connection.recv(64)
                connection.recv(64)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"/ip4/127.0.0.1/tcp/{listener.getsockname()[1]}/p2p/{PEER}"
    thread.join(5)


def test_bootstrap_peers_are_dialled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "ANSWER_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as gone:
        closed = f"/ip4/127.0.0.1/tcp/{gone.getsockname()[1]}/p2p/{PEER}"
    with (
        answering(b"\x13/multistream/1.0.0\n") as good,
        answering(b"HTTP/1.1 400 Bad Request\r\n") as web,
        answering(None) as silent,
    ):
        assert bootstrap.why_not(good) == ""
        assert "something else" in bootstrap.why_not(web)
        assert "timed out" in bootstrap.why_not(silent)
    assert "refused" in bootstrap.why_not(closed)
    with answering(b"\x13/multistream/1.0.0\n") as good:
        found = only(bootstrap.check(context_of(tmp_path, bootstrap=[good, closed])))
    assert found.result == "warn" and found.evidence.startswith("1 of 2 bootstrap peers answer")
    assert only(bootstrap.check(context_of(tmp_path, bootstrap=[closed]))).result == "fail"
    assert only(bootstrap.check(context_of(tmp_path))).result == "skip"
    joined = status_of(bootstrap=(closed,))  # by an invite: the settings know nothing of it
    assert only(bootstrap.check(context_of(tmp_path, status=joined))).result == "fail"


def test_a_port_in_use_is_found(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = [f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}"]
        found = only(ports.check(context_of(tmp_path, listen=listen)))
        assert found.result == "fail" and "in use" in found.evidence
    assert only(ports.check(context_of(tmp_path, listen=listen))).result == "ok"


# ---- keys, settings, exposure --------------------------------------------------------------


def test_who_can_read_the_key(tmp_path: Path) -> None:
    """Scenario 43: with the command that mends it."""
    context = context_of(tmp_path)
    assert only(keys.check(context)).result == "warn"
    identity.create(context.paths.identity)
    assert [found.result for found in keys.check(context)] == ["ok", "ok"]
    context.paths.identity.chmod(0o644)
    context.paths.root.chmod(0o755)
    key, folder = keys.check(context)
    assert key.result == folder.result == "fail"
    assert key.remedy == f"run: chmod 600 {context.paths.identity}"
    assert folder.remedy == f"run: chmod 700 {context.paths.root}"


def test_all_wrong_settings_are_told(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    context.paths.config.write_text("therads = 1\nthreads = 0\n")
    found = list(settings.check(context))
    assert [each.result for each in found] == ["fail", "fail"]
    assert found[0].remedy == "did you mean threads?"


def test_what_others_can_reach_is_told(tmp_path: Path) -> None:
    """Scenarios 44 and 45: in the settings, and in the system's table of sockets."""
    context = context_of(tmp_path, metrics_listen="0.0.0.0:9464", metrics_public=True)
    api, metrics = exposure.check(context)
    assert (api.result, metrics.result) == ("skip", "warn")
    context.paths.socket.touch(mode=0o777)
    context.paths.socket.chmod(0o777)
    assert next(iter(exposure.check(context))).result == "fail"
    status = status_of(os.getpid())
    with socket.create_server(("127.0.0.1", 0)), socket.create_server(("0.0.0.0", 0)) as open_:
        port = open_.getsockname()[1]
        found = exposure._sockets(status)
        assert found.result == "warn" and f"0.0.0.0:{port}" in found.evidence
        assert "127.0.0.1" not in found.evidence
        own = status_of(os.getpid(), listen=(f"/ip4/192.0.2.1/tcp/{port}/p2p/{PEER}",))
        assert exposure._sockets(own).result == "ok"
    assert exposure._sockets(status_of(2**22 + 1)).result == "skip"


def test_a_socket_of_mdns_is_meant_if_mdns_speaks(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("0.0.0.0", 5353))
        found = exposure._sockets(status_of(os.getpid(), mdns="off"))
        assert found.result == "warn" and "0.0.0.0:5353/udp" in found.evidence
        found = exposure._sockets(status_of(os.getpid(), mdns="announced on 192.0.2.1"))
        assert found.result == "ok" and "mDNS (5353/udp)" in found.evidence


# ---- what the daemon says ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offsets", "result", "words"),
    [
        ((), "skip", "no peer told"),
        ((0.2, -0.1, 0.3), "ok", "0.2 s behind 3 peers"),
        ((600.0, 601.0, 0.0), "warn", "600.0 s behind 3 peers"),
        ((-600.0, -600.0, -599.0), "warn", "600.0 s ahead of 3 peers"),
        ((0.0, 0.1, -9000.0), "ok", "3 peers"),  # one wrong clock does not count
        ((90.0,), "warn", "too few to tell whose"),
    ],
)
def test_the_clock_is_compared_with_the_median_peer(
    tmp_path: Path, offsets: tuple[float, ...], result: str, words: str
) -> None:
    """Scenario 11."""
    peers = tuple(peer_of(clock_offset_s=offset) for offset in (*offsets, None))
    found = only(clock.check(context_of(tmp_path, status=status_of(), peers=peers)))
    assert found.result == result and words in found.evidence


def test_problems_and_state_of_the_daemon_are_repeated(tmp_path: Path) -> None:
    problem = ProblemView(name="disk", what="only 3 MiB are free", fix="free some")
    status = msgspec.structs.replace(status_of(state="alone"), problems=(problem,))
    first, network = daemon.check(context_of(tmp_path, status=status))
    assert (first.id, first.result, first.remedy) == ("daemon-disk", "warn", "free some")
    assert network.result == "warn"
    assert only(daemon.check(context_of(tmp_path))).result == "skip"


def test_a_daemon_that_runs_and_does_not_answer_fails(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        paths = context_of(tmp_path).paths
        paths.config.write_text(f'listen = ["/ip4/127.0.0.1/tcp/{port}"]')
        with held(paths.lock, 0):
            context = gather(paths)
            found = only(daemon.check(context))
            assert found.result == "fail" and f"process {os.getpid()}, takes no" in found.evidence
            assert "ask again" in found.remedy
            assert only(clock.check(context)).evidence == found.evidence
            assert only(ports.check(context)).result == "skip"  # the port is that daemon's
    assert only(daemon.check(gather(paths))).result == "skip"


@pytest.mark.parametrize(
    ("direction", "address", "role", "result"),
    [
        ("in", "/ip4/192.0.2.1/tcp/1", "learner", "ok"),
        ("out", "/ip4/192.0.2.1/tcp/1", "learner", "warn"),
        ("out", "/ip4/192.0.2.1/tcp/1", "worker", "ok"),
        ("in", "/ip4/127.0.0.1/tcp/1", "learner", "skip"),
    ],
)
def test_reachability_is_what_others_did(
    tmp_path: Path, direction: str, address: str, role: str, result: str
) -> None:
    held = (RoleView(role=role, run="", state=""),)
    status = msgspec.structs.replace(status_of(), roles=held)
    peers = (peer_of(direction=direction, addresses=(address,)),)
    assert (
        only(reachability.check(context_of(tmp_path, status=status, peers=peers))).result == result
    )


@pytest.mark.parametrize(
    ("kind", "role", "result"),
    [
        ("public", "worker", "ok"),
        ("upnp", "learner", "ok"),
        ("outbound", "learner", "warn"),
        ("outbound", "worker", "ok"),
    ],
)
def test_what_was_measured_goes_before_what_happened(
    tmp_path: Path, kind: str, role: str, result: str
) -> None:
    status = msgspec.structs.replace(
        status_of(
            reachability=kind,
            reachability_evidence="as two peers saw",
            upnp="the router 192.0.2.1 is of no use: it said no",
        ),
        roles=(RoleView(role=role, run="", state=""),),
    )
    peers = (peer_of(direction="out", addresses=("/ip4/198.51.100.1/tcp/1",)),)
    found = only(reachability.check(context_of(tmp_path, status=status, peers=peers)))
    assert found.result == result
    assert "as two peers saw" in found.evidence
    assert ("it said no" in found.evidence) == (kind != "upnp")


def test_bandwidth_is_what_was_measured(tmp_path: Path) -> None:
    assert only(bandwidth.check(context_of(tmp_path, status=status_of()))).result == "skip"
    status = status_of(peak_received_bytes_s=2.5e6, peak_sent_bytes_s=125_000.0)
    found = only(bandwidth.check(context_of(tmp_path, status=status)))
    assert "20.0 Mbit/s down and 1.0 Mbit/s up" in found.evidence


# ---- what the machine can compute with -----------------------------------------------------


def test_this_machine_and_its_libraries(tmp_path: Path) -> None:
    """The real probe, in its own process."""
    context = context_of(tmp_path)
    assert [found.result for found in software.check(context)] == ["ok", "ok"]
    assert only(torch_build.check(context)).result == "ok"
    assert context.probe["native"] in ("cpp", "numpy")
    assert "native" in {found.id for found in native.check(context)}


@pytest.mark.parametrize(
    ("available", "result"), [(2**29, "fail"), (2 * 2**30, "warn"), (8 * 2**30, "ok")]
)
def test_memory_that_is_short(
    available: int, result: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = psutil.virtual_memory()._replace(available=available)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: seen)
    found = only(memory.check(context_of(tmp_path)))
    assert found.result == result
    assert bool(found.remedy) == (result != "ok")


@pytest.mark.parametrize(("free", "result"), [(2**20, "fail"), (2**31, "warn"), (2**33, "ok")])
def test_a_disk_that_is_short(
    free: int, result: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    found = only(disk.check(context_of(tmp_path)))
    assert found.result == result
    assert bool(found.remedy) == (result != "ok")


def test_open_files_against_the_profile(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    context = context_of(tmp_path)
    assert context.config is not None
    wanted = context.config.limits.connections + open_files.OTHERS
    try:
        for limit, result in ((wanted - 1, "warn"), (wanted, "ok")):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            assert only(open_files.check(context)).result == result
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    context.__dict__["probe"] = {"error": "ImportError: no torch", "native": "numpy"}
    assert only(torch_build.check(context)).result == "fail"
    assert only(native.check(context)).result == "warn"
    del context.__dict__["probe"]["native"]
    assert only(native.check(context)).result == "skip"


@pytest.mark.parametrize(
    ("capability", "archs", "fits"),
    [
        ([9, 0], ["sm_80", "sm_90"], True),
        ([8, 9], ["sm_80"], True),  # an older one of the generation
        ([8, 0], ["sm_86"], False),
        ([12, 0], ["sm_80", "sm_90"], False),
        ([12, 0], ["sm_90", "compute_90"], True),  # by intermediate code
        ([10, 0], ["sm_100a", "sm_120"], True),
        ([7, 5], ["sm_80", "compute_80"], False),
        ([9, 0], [], False),
    ],
)
def test_compute_capability_against_the_build(
    capability: list[int], archs: list[str], fits: bool
) -> None:
    found = gpu.fits({"name": "GPU", "capability": capability}, archs)
    assert found.result == ("ok" if fits else "warn")


@pytest.mark.parametrize(
    ("probe", "why", "remedy"),
    [
        ({"error": "ImportError"}, "does not load", "`torch`"),
        ({"torch": "2.13.0", "cuda": None}, "for the CPU", "make setup"),
        ({"torch": "2.13.0", "cuda": "13.0"}, "needs a newer driver", "built for CUDA 12"),
        ({"torch": "2.13.0", "cuda": "12.9"}, "which this driver runs", "--gpus all"),
    ],
)
def test_a_gpu_that_torch_cannot_use_and_why(probe: dict[str, str], why: str, remedy: str) -> None:
    found = gpu.unusable(gpu.Driver("550.54", (12, 4)), probe)
    assert why in found[0] and remedy in found[1]
