"""The PyPI package `shardcast` as a swarm: one origin, relays, the rest clients, for
`benchmarks.broadcast`.

Chosen in its favour: shards of 1 MiB and a poll a second, so that relays pass on what they have while
they still download (the package's 50 MB shards would make that two steps); short pauses after a 404;
a patient HTTP timeout, since its server answers one request at a time and a capped queue is long;
and as many relays as its best case wants (the origin sends R copies, each relay (n - 1 - R) / R).
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

import trio

from benchmarks.swarm import CONNECT_S, Member

NODE = Path(__file__).with_name("shardcast_node.py")
RELEASE = "shardcast==0.3.2"
RELAYS = 3  # of 15: the origin sends 3 copies, a relay 4
SETTINGS = {
    "SHARDCAST_SHARD_SIZE": str(1 << 20),
    "SHARDCAST_HTTP_TIMEOUT": "600",
    "SHARDCAST_FAST_RETRY_INTERVAL": "1",
    "SHARDCAST_SLOW_RETRY_INTERVAL": "2",
    "SHARDCAST_MAX_CONCURRENT_DOWNLOADS": "4",
    "SHARDCAST_LOG_LEVEL": "CRITICAL",
}


async def measure(
    folder: Path, payload: Path, nodes: int, cap_bytes_per_s: float, within_s: float
) -> dict[str, Any]:
    """Seconds from the broadcast until the last node, relays included, has the file."""
    python = await _environment(folder / "venv")
    async with _swarm(folder, python, payload, nodes, cap_bytes_per_s) as members:
        origin, relays, clients = members[0], members[1 : 1 + RELAYS], members[1 + RELAYS :]
        await origin.tell(go=True)
        began = await origin.hears("began", 60.0)
        done = [await client.hears("done", within_s) - began for client in clients]
        if not all(_is_same(Path(client.said["path"]), payload) for client in clients):
            raise RuntimeError("shardcast delivered something else")
        return {"took_s": max(done), "first_s": min(done), "relays": len(relays)}


def _is_same(path: Path, payload: Path) -> bool:
    return path.read_bytes() == payload.read_bytes()


async def _environment(venv: Path) -> Path:
    """An interpreter with the package and nothing of ours."""
    await trio.run_process([sys.executable, "-m", "venv", str(venv)])
    python = venv / "bin" / "python"
    await trio.run_process([str(python), "-m", "pip", "install", "-q", RELEASE], stderr=DEVNULL)
    return python


@asynccontextmanager
async def _swarm(
    folder: Path, python: Path, payload: Path, nodes: int, cap_bytes_per_s: float
) -> AsyncIterator[list[Member]]:
    ports = _free_ports(nodes)
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    package = next((python.parent.parent / "lib").glob("*/site-packages/shardcast"))
    async with trio.open_nursery() as nursery:
        members: list[Member] = []
        try:
            for number, port in enumerate(ports):
                home = folder / f"shardcast-{number}"
                # It keeps a temporary file beside the package: a copy for each, as on 16 machines.
                shutil.copytree(package, home / "site" / "shardcast")
                words: list[object] = [python, NODE]
                words += [_role(number), home, port, cap_bytes_per_s]
                words += [payload] if number == 0 else urls[:1]
                if number > RELAYS:
                    words[-1:] = urls[1 : 1 + RELAYS]
                process = await trio.lowlevel.open_process(
                    [str(word) for word in words],
                    stdin=PIPE,
                    stdout=PIPE,
                    stderr=DEVNULL,
                    env=os.environ | SETTINGS | {"PYTHONPATH": str(home / "site")},
                )
                members.append(Member(process))
                nursery.start_soon(members[-1].listen)
                await members[-1].hears("listening", CONNECT_S)  # they share a file at the start
            yield members
        finally:
            for member in members:
                if member.is_alive:
                    member.process.kill()
            with trio.CancelScope(shield=True):
                for member in members:
                    await member.process.wait()
        nursery.cancel_scope.cancel()


def _role(number: int) -> str:
    return "origin" if number == 0 else "relay" if number <= RELAYS else "client"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports
