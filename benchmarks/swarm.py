"""The processes of `benchmarks.broadcast`: started, told what to do, listened to, killed.

The first node is the origin and everybody's bootstrap peer.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any

import trio

CONNECT_S = 90.0


class Member:
    """One process and what it has said so far."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.said: dict[str, Any] = {}
        self._heard = trio.Event()
        self._is_over = False

    async def listen(self) -> None:
        buffer = bytearray()
        assert self.process.stdout is not None
        async for data in self.process.stdout:
            buffer += data
            *lines, rest = bytes(buffer).split(b"\n")
            buffer[:] = rest
            for line in lines:
                self.said |= json.loads(line)
            self._heard.set()
            self._heard = trio.Event()
        self._is_over = True
        self._heard.set()

    async def tell(self, **order: Any) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(json.dumps(order).encode() + b"\n")

    async def hears(self, what: str, within_s: float) -> Any:
        """What it says under this name, from now or before."""
        with trio.fail_after(within_s):
            while what not in self.said:
                if self._is_over:
                    raise RuntimeError("a node has ended before its time")
                await self._heard.wait()
        return self.said[what]

    async def describe(self) -> dict[str, Any]:
        self.said.pop("description", None)
        await self.tell(describe=True)
        described: dict[str, Any] = await self.hears("description", 30.0)
        return described

    @property
    def is_alive(self) -> bool:
        return self.process.returncode is None


@asynccontextmanager
async def swarm(
    folder: Path,
    nodes: int,
    cap_bytes_per_s: float,
    kind: str,
    module: str = "benchmarks.broadcast_node",
) -> AsyncIterator[list[Member]]:
    """Nodes that are connected with each other; all are gone afterwards."""
    async with trio.open_nursery() as nursery:
        members: list[Member] = []
        join: list[str] = []
        for number in range(nodes):
            home = folder / f"{kind}-{number}"
            home.mkdir(parents=True)
            words = [sys.executable, "-m", module, home, cap_bytes_per_s, kind]
            process = await trio.lowlevel.open_process(
                [str(word) for word in words], stdin=PIPE, stdout=PIPE
            )
            member = Member(process)
            members.append(member)
            nursery.start_soon(member.listen)
            await member.tell(join=join)
            if number == 0:
                join = await member.hears("listening", CONNECT_S)
        try:
            await _until_connected(members, min(nodes - 1, 8))
            yield members
        finally:
            for member in members:
                if member.is_alive:
                    member.process.kill()
            with trio.CancelScope(shield=True):
                for member in members:
                    await member.process.wait()
        nursery.cancel_scope.cancel()


async def _until_connected(members: list[Member], wanted: int) -> None:
    with trio.fail_after(CONNECT_S):
        for member in members:
            await member.hears("listening", CONNECT_S)
            while (await member.describe())["followers"] < wanted:
                await trio.sleep(0.5)
