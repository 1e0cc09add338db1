"""js-libp2p nodes in a process of their own, commanded by JSON lines (client.mjs).

The packages are installed once, as the lock file says, into build/foreign/<its digest>; later runs
need no network. Where node or npm is missing, or the first installation fails, tests are skipped.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / "build" / "foreign"
OLDEST_NODE = 20
INSTALL_S = 180.0
CALL_S = 20.0
GRACE_S = 10.0  # beyond a call's own deadline, which the other process keeps
LINE_BYTES = 8 * 1024 * 1024
_INSTALL = "npm ci --ignore-scripts --no-audit --no-fund --prefer-offline "
_INSTALL += "--fetch-retries=1 --fetch-retry-mintimeout=1000"


class JsError(Exception):
    """What the js side says went wrong."""


@functools.cache
def installed() -> Path:
    """The folder in which client.mjs runs. Skips the test if there cannot be one."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    version = _run(["node", "--version"], HERE, 30.0).stdout.strip()
    if int(version.lstrip("v").partition(".")[0] or 0) < OLDEST_NODE:
        pytest.skip(f"node {version} is older than {OLDEST_NODE}")
    folder = CACHE / hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()[:16]
    if not folder.exists():
        _install(folder)
    shutil.copy(HERE / "client.mjs", folder)  # a module finds packages beside itself only
    return folder


def _install(folder: Path) -> None:
    """All of it or nothing: a folder of that name is complete."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, ignore_cleanup_errors=True) as text:
        fresh = Path(text) / "packages"
        fresh.mkdir()
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, fresh)
        try:
            done = _run(_INSTALL.split(), fresh, INSTALL_S)
        except subprocess.TimeoutExpired:
            pytest.skip(f"npm did not install js-libp2p in {INSTALL_S:.0f} s")
        if done.returncode:
            reasons = [line for line in done.stderr.splitlines() if line.startswith("npm error")]
            pytest.skip(f"js-libp2p could not be installed: {' '.join(reasons[:3])[:300]}")
        if not folder.exists():  # another test run may have been faster
            fresh.rename(folder)


def _run(command: list[str], folder: Path, at_most_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, check=False, capture_output=True, text=True, timeout=at_most_s
    )


class JsProcess:
    """Several js nodes of one process. `gossip` is what they received: (node, topic, from, data)."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.gossip: list[tuple[str, str, str, bytes]] = []
        self._answers: dict[int, dict[str, Any]] = {}
        self._arrived: dict[int, trio.Event] = {}
        self._next = 0

    async def node(self, name: str, **options: bool) -> JsNode:
        made = await self.call("create", node=name, **options)
        return JsNode(self, name, made["peer"], made["addresses"])

    async def call(self, call: str, *, at_most_s: float = CALL_S, **args: object) -> Any:
        """The result of a call. Raises JsError; TooSlowError if the process does not answer."""
        self._next += 1
        number, event = self._next, trio.Event()
        self._arrived[number] = event
        line = {"id": number, "call": call, "args": args, "timeout_ms": int(at_most_s * 1000)}
        assert self.process.stdin is not None
        with trio.fail_after(at_most_s + GRACE_S):
            await self.process.stdin.send_all(json.dumps(line).encode() + b"\n")
            await event.wait()
        answer = self._answers.pop(number)
        if "error" in answer:
            raise JsError(f"{call}: {answer['error']}")
        return answer["result"]

    async def listen(self) -> None:
        """Until the process ends; calls that wait then fail."""
        assert self.process.stdout is not None
        buffer = bytearray()
        async for chunk in self.process.stdout:
            buffer += chunk
            assert len(buffer) <= LINE_BYTES, "an endless line"
            *lines, rest = buffer.split(b"\n")
            buffer = bytearray(rest)
            for line in lines:
                self._take(json.loads(line))
        for number in list(self._arrived):
            self._take({"id": number, "error": "the process has ended"})

    def _take(self, line: dict[str, Any]) -> None:
        if line.get("event") == "gossip":
            data = bytes.fromhex(line["data"])
            self.gossip.append((line["node"], line["topic"], line["from"], data))
        elif line["id"] in self._arrived:
            self._answers[line["id"]] = line
            self._arrived.pop(line["id"]).set()


class JsNode:
    """One js-libp2p node: its calls go to the process."""

    def __init__(self, js: JsProcess, name: str, peer: str, addresses: list[str]) -> None:
        self.js = js
        self.name = name
        self.peer = peer
        self.addresses = addresses

    async def call(self, call: str, *, at_most_s: float = CALL_S, **args: object) -> Any:
        return await self.js.call(call, at_most_s=at_most_s, node=self.name, **args)

    async def say(self, peer: str, protocol: str, *chunks: bytes, end: str = "read") -> bytes:
        """Send chunks on a stream of its own; `end`: read (the answer), close, abort or
        hold."""
        texts = [chunk.hex() for chunk in chunks]
        answer = await self.call("say", peer=peer, protocol=protocol, chunks=texts, end=end)
        return bytes.fromhex(answer or "")

    def received(self, topic: str) -> list[bytes]:
        return [data for name, t, _, data in self.js.gossip if (name, t) == (self.name, topic)]


@asynccontextmanager
async def js_process() -> AsyncIterator[JsProcess]:
    folder = installed()
    process = await trio.lowlevel.open_process(
        ["node", "client.mjs"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder
    )
    assert process.stdin is not None and process.stdout is not None
    js = JsProcess(process)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(js.listen)
            yield js
            nursery.cancel_scope.cancel()
    finally:
        if process.poll() is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdin.aclose()
            await process.stdout.aclose()
