"""The local API over its unix socket: who may call it (scenario 44), what is refused, what is said."""

from __future__ import annotations

import http.client
import json
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio

from primed.node import api
from primed.node import views as v
from primed.node.api import make_app
from primed.node.metrics import Metrics, metrics_app
from primed.node.serving import serving, tcp_listener
from primed.p2p.errors import UserError
from primed.p2p.network import Traffic

LOCAL = {"Host": "primed"}


class Node:
    """A NodeView that has nothing, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.scope = trio.CancelScope()

    async def status(self) -> v.StatusView:
        await trio.sleep_forever()
        raise AssertionError

    async def peers(self) -> v.PeersView:
        return v.PeersView(peers=())

    async def identity(self) -> v.IdentityView:
        return v.IdentityView(peer="p", addresses=(), data_dir="")

    async def runs(self) -> v.RunsView:
        raise ZeroDivisionError("canary")

    async def run(self, run: str) -> v.RunView:
        raise UserError(f"no run {run}", "look", exit_code=3)

    async def join(self, target: str, roles: tuple[str, ...]) -> v.RunView:
        self.asked.append((target, roles))
        raise UserError("joined enough")

    async def publish(self, spec_path: str) -> v.RunView:
        raise UserError(spec_path)

    async def rewards(self, run: str, limit: int) -> v.RewardsView:
        self.asked.append((run, limit))
        return v.RewardsView(
            run=run, final=0, pending=0, excluded=False, batches=(), rejected={}, states={}
        )

    async def verdicts(self, run: str, limit: int) -> v.VerdictsView:
        return v.VerdictsView(run=run, verdicts=())

    async def stop(self) -> v.StoppingView:
        self.scope.cancel()
        return v.StoppingView(pid=1)


class Caller(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("unused", timeout=5)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(5)
        self.sock.connect(str(self._path))


def call(
    path: Path, target: str, headers: dict[str, str], body: bytes | None = None
) -> tuple[int, Any]:
    connection = Caller(path)
    try:
        connection.putrequest("GET" if body is None else "POST", target, skip_host=True)
        length = {} if body is None else {"Content-Length": str(len(body))}
        for name, value in {**headers, **length}.items():
            connection.putheader(name, value)
        with suppress(BrokenPipeError):  # too large, refused while it is sent: the answer is there
            connection.endheaders(body)
        response = connection.getresponse()
        return response.status, json.loads(response.read() or b"null")
    finally:
        connection.close()


@asynccontextmanager
async def running(tmp_path: Path, node: Node) -> AsyncIterator[Path]:
    path = tmp_path / "api.sock"
    async with api.serving(make_app(node), path):
        yield path


async def ask(
    path: Path, target: str, headers: dict[str, str] = LOCAL, body: bytes | None = None
) -> tuple[int, Any]:
    return await trio.to_thread.run_sync(call, path, target, headers, body)


@pytest.mark.trio
async def test_only_the_user_can_reach_the_socket(tmp_path: Path) -> None:
    """Scenario 44. The directory's mode is tested with the data directory."""
    path = tmp_path / "api.sock"
    path.write_text("left by a killed daemon")
    async with running(tmp_path, Node()):
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert (await ask(path, "/v1/peers")) == (200, {"peers": []})
    assert not path.exists()


@pytest.mark.trio
@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost"},
        {"Host": "primed.evil.example"},
        {"Host": "primed:80"},
        {"Host": "primed", "Origin": "http://primed"},
        {"Host": "primed", "Origin": "null"},
    ],
)
async def test_a_browser_cannot_call(tmp_path: Path, headers: dict[str, str]) -> None:
    """Scenario 44: DNS rebinding (Host) and cross-site requests (Origin)."""
    node = Node()
    async with running(tmp_path, node) as path:
        for target, body in (("/v1/peers", None), ("/v1/join", b'{"target":"x"}')):
            status, answer = await ask(
                path, target, headers | {"Content-Type": "application/json"}, body
            )
            assert status == 403 and "only local programs" in answer["error"]
    assert node.asked == []


@pytest.mark.trio
@pytest.mark.parametrize(
    ("body", "type_"),
    [
        (b"", "application/json"),
        (b"{", "application/json"),
        (b"[" * 5000, "application/json"),
        (b'{"target": 1}', "application/json"),
        (b'{"target": "x", "more": 1}', "application/json"),
        (b'{"target": "' + b"x" * 70_000 + b'"}', "application/json"),
        (b'{"target": "x"}', "text/plain"),
    ],
)
async def test_wrong_bodies_are_refused(tmp_path: Path, body: bytes, type_: str) -> None:
    node = Node()
    async with running(tmp_path, node) as path:
        status, answer = await ask(path, "/v1/join", LOCAL | {"Content-Type": type_}, body)
        assert status == 400 and answer["error"].startswith("the body")
        assert (await ask(path, "/v1/peers"))[0] == 200
    assert node.asked == []


@pytest.mark.trio
async def test_arguments_arrive_and_errors_keep_their_words(tmp_path: Path) -> None:
    node = Node()
    async with running(tmp_path, node) as path:
        body, headers = (
            b'{"target": "x", "roles": ["worker"]}',
            {"Content-Type": "application/json"},
        )
        assert (await ask(path, "/v1/join", LOCAL | headers, body))[0] == 400
        assert (await ask(path, "/v1/rewards?run=ab&limit=7"))[0] == 200
        assert (await ask(path, "/v1/rewards"))[0] == 200
        for limit in ("0", "-1", "10001", "x", "1e3", "٣", "9" * 30):
            assert (await ask(path, f"/v1/rewards?limit={quote(limit)}"))[0] == 400
        answer = await ask(path, "/v1/runs/zz")
        assert answer == (400, {"error": "no run zz", "hint": "look", "code": 3})
        for target, code in (("/v1/stop", 405), ("/v1/absent", 404)):
            status, answer = await ask(path, target)
            assert status == code and "has no GET" in answer["error"]
    assert node.asked == [("x", ("worker",)), ("ab", 7), ("", 20)]


@pytest.mark.trio
async def test_a_bug_is_counted_and_kept_in_the_log(tmp_path: Path) -> None:
    count = []
    path = tmp_path / "api.sock"
    app = make_app(Node(), on_error=lambda: count.append(1))
    async with api.serving(app, path):
        status, answer = await ask(path, "/v1/runs")
        assert status == 500 and "canary" not in json.dumps(answer)
        assert (await ask(path, "/v1/peers"))[0] == 200
    assert count == [1]


@pytest.mark.trio
async def test_an_answer_has_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "ANSWER_S", 0.2)
    async with running(tmp_path, Node()) as path:
        status, answer = await ask(path, "/v1/status")
    assert status == 504 and "did not answer" in answer["error"]


@pytest.mark.trio
async def test_stopping_is_answered_although_all_is_cancelled(tmp_path: Path) -> None:
    node, answers = Node(), []
    body, headers = b"{}", LOCAL | {"Content-Type": "application/json", "Connection": "close"}

    async def stop(path: Path) -> None:
        with trio.CancelScope(shield=True):
            answers.append(await ask(path, "/v1/stop", headers, body))

    with node.scope:
        async with trio.open_nursery() as nursery, running(tmp_path, node) as path:
            nursery.start_soon(stop, path)
            await trio.sleep_forever()
    assert answers == [(200, {"pid": 1, "stopping": True})]


@pytest.mark.trio
async def test_metrics_are_served_where_asked() -> None:
    metrics = Metrics()
    traffic = Traffic(gossip_received_bytes=7, extra={"dials": 2})
    metrics.watch_traffic(lambda: traffic)
    metrics.child_stops.labels("engine", "oom").inc()
    metrics.watch_log(lambda: 12)
    listener = tcp_listener("127.0.0.1:0")
    port = listener.getsockname()[1]

    def fetch() -> str:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return text

    async with serving(metrics_app(metrics), listener):
        text = await trio.to_thread.run_sync(fetch)
    assert 'primed_child_stops_total{child="engine",reason="oom"} 1.0' in text
    assert "primed_gossip_received_bytes_total 7.0" in text
    assert 'primed_network_total{what="dials"} 2.0' in text
    assert "primed_log_lines_left_out_total 12.0" in text
    assert "primed_process_open_fds" in text and 'primed_build_info{version="' in text
    assert all(line.startswith(("#", "primed_")) for line in text.splitlines())


def test_an_address_in_use_is_a_user_error() -> None:
    with tcp_listener("127.0.0.1:0") as listener:
        port = listener.getsockname()[1]
        with pytest.raises(UserError, match="cannot listen"):
            tcp_listener(f"127.0.0.1:{port}")
