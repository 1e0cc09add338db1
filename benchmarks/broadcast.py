"""`make bench NAME=broadcast`: one payload to all nodes of a swarm, in units of W/u.

W are the payload's bytes, u the upload cap that every node has (token bucket, `p2p.uploads`); a single
server would need n - 1 units, and nobody can need less than about one, since every leaf has to leave
the origin. Real libp2p hosts, a process each, on loopback; the cap is chosen so that it limits, not
the machine. Compared in the same run with the PyPI package `shardcast` and with stock gossipsub.
Stages that were measured are kept (`stages`): an interrupted run goes on. ARGS="--nodes 16 --mib 64
--cap-mib 1".
"""

from __future__ import annotations

import argparse
import math
import os
import random
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import trio

from benchmarks import shardcast_swarm
from benchmarks.figures import Figure, show
from benchmarks.stages import Stages
from benchmarks.swarm import Member, swarm

MIB = 1 << 20
LEAF_BYTES = 256 * 1024
WARM_UP_BYTES = 4 * MIB  # a payload beforehand: in a run, streams are open long before
SHARDS = 64  # of a gossip push, LEAF_BYTES each
QUIET_S = 3.0  # without a byte sent: a push is over
KILLED = 0.1  # of the nodes, half-way


class Setup(NamedTuple):
    nodes: int
    payload_bytes: int
    cap_bytes_per_s: float

    @property
    def unit_s(self) -> float:
        """W/u."""
        return self.payload_bytes / self.cap_bytes_per_s

    @property
    def within_s(self) -> float:
        return 60.0 + 12 * self.unit_s

    @property
    def bound(self) -> float:
        """In W/u, equal uplinks: each leaf leaves the origin once, and its last copies double
        (Mundinger, Weber and Weiss 2008)."""
        return 1 + math.log2(self.nodes) * LEAF_BYTES / self.payload_bytes


async def measure_ours(setup: Setup) -> dict[str, Any]:
    """The pull swarm without and with deaths, and our gossip push, of one swarm."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        async with swarm(home, setup.nodes, setup.cap_bytes_per_s, "ours") as members:
            await broadcast(members, a_file(home / "warm-up", WARM_UP_BYTES), setup)
            for member in members:
                await member.tell(restart_watch=True)
            payload = a_file(home / "payload", setup.payload_bytes)
            found["pull"] = await broadcast(members, payload, setup)
            found["push"] = await push(members, setup)
            again = a_file(home / "again", setup.payload_bytes)
            found["killed"] = await broadcast(members, again, setup, kill=KILLED)
            found["stall"] = max([await stall_of(member) for member in living(members)])
    return found


async def measure_stock(setup: Setup) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        async with swarm(Path(folder), setup.nodes, setup.cap_bytes_per_s, "stock") as members:
            return await push(members, setup)


async def measure_shardcast(setup: Setup) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        payload = a_file(home / "payload", setup.payload_bytes)
        return await shardcast_swarm.measure(
            home, payload, setup.nodes, setup.cap_bytes_per_s, setup.within_s
        )


def a_file(path: Path, size_bytes: int) -> Path:
    path.write_bytes(os.urandom(size_bytes))
    return path


async def broadcast(
    members: Sequence[Member], file: Path, setup: Setup, kill: float = 0.0
) -> dict[str, Any]:
    """From the moment the payload is announced, until the last living node has it, synced."""
    origin = members[0]
    doomed = random.Random(1).sample(members[1:], math.ceil(kill * len(members)))
    others = [member for member in members[1:] if member not in doomed]
    for member in members:
        for word in ("added", "done", "path"):
            member.said.pop(word, None)
    before = await sent_bytes([origin, *others])
    await origin.tell(add=str(file))
    added = await origin.hears("added", 60.0)
    began = time.monotonic()
    for member in members[1:]:
        await member.tell(expect=added, learner=origin.said["peer"])
    if doomed:
        await trio.sleep(setup.unit_s / 2)
    for member in doomed:
        member.process.kill()
    done = sorted([await member.hears("done", setup.within_s) - began for member in others])
    want = file.read_bytes()
    if not all(Path(member.said["path"]).read_bytes() == want for member in others):
        raise RuntimeError("a node has another file")
    sent = await sent_bytes([origin, *others]) - before
    copies = len(others) * len(want)
    return {
        "took_s": done[-1],
        "median_s": done[len(done) // 2],
        "sent_per_copy": round(sent / copies, 3),
        "dead": len(doomed),
    }


async def push(members: Sequence[Member], setup: Setup) -> dict[str, Any]:
    """SHARDS gossip messages from the origin to all."""
    origin, others = members[0], members[1:]
    size_bytes = SHARDS * LEAF_BYTES
    for member in others:
        await member.tell(await_messages=SHARDS)
    before = await sent_bytes(members, "gossip_sent_bytes")
    await origin.tell(publish=SHARDS, bytes=LEAF_BYTES)
    began = await origin.hears("gossip_began", 60.0)
    done = [await member.hears("gossip_done", setup.within_s) - began for member in others]
    total, last = -1.0, before
    while last != total:
        await trio.sleep(QUIET_S)
        total, last = last, await sent_bytes(members, "gossip_sent_bytes")
    copies = len(others) * size_bytes
    unit_s = size_bytes / setup.cap_bytes_per_s
    return {"units": max(done) / unit_s, "amplification": (last - before) / copies}


async def sent_bytes(members: Sequence[Member], *kinds: str) -> float:
    """Of all living nodes together."""
    kinds = kinds or ("bulk_sent_bytes", "stream_sent_bytes")
    told = [await member.describe() for member in living(members)]
    return float(sum(each[kind] for each in told for kind in kinds))


def living(members: Sequence[Member]) -> list[Member]:
    return [member for member in members if member.is_alive]


async def stall_of(member: Member) -> tuple[float, str]:
    told = await member.describe()
    return told["loop_stall_s"], told["loop_stall_in"]


def show_all(
    setup: Setup, ours: dict[str, Any], shardcast: dict[str, Any], stock: dict[str, Any]
) -> None:
    unit, unit_s = "W/u", setup.unit_s
    about = {"nodes": setup.nodes, "payload_mib": setup.payload_bytes / MIB}
    about["cap_mib_per_s"] = setup.cap_bytes_per_s / MIB
    for name, pull, goal in (
        ("broadcast_time", ours["pull"], 1.25),
        ("broadcast_time_killed", ours["killed"], None),
    ):
        more = {**about, "median": round(pull["median_s"] / unit_s, 3)}
        more |= {key: pull[key] for key in ("sent_per_copy", "dead")}
        took = pull["took_s"] / unit_s
        show(Figure(name, took, unit, "lower", setup.bound, goal, about=more))
    rate = setup.payload_bytes / MIB / ours["pull"]["took_s"]  # at which it was everywhere
    theirs = setup.payload_bytes / MIB / shardcast["took_s"]
    by_push = setup.cap_bytes_per_s / MIB / stock["units"]
    more = {"relays": shardcast["relays"]}
    show(Figure("broadcast_vs_shardcast", rate, "MiB/s", "higher", theirs, about=more))
    show(Figure("broadcast_vs_stock_push", rate, "MiB/s", "higher", by_push))
    show(Figure("gossip_push_time", ours["push"]["units"], unit, "lower", stock["units"]))
    mine, other = ours["push"]["amplification"], stock["amplification"]
    show(Figure("gossip_amplification", mine, "copies sent a receiver", "lower", other, 1.3))
    stall_s, where = ours["stall"]
    about = {"in_task": where}
    show(Figure("loop_stall_ms", 1e3 * stall_s, "ms", "lower", goal=50, about=about))


async def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.broadcast")
    parser.add_argument("--nodes", type=int, default=16)
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--cap-mib", type=float, default=1.0)
    args = parser.parse_args()
    setup = Setup(args.nodes, args.mib * MIB, args.cap_mib * MIB)
    stages = Stages("broadcast", vars(args))
    ours = await stages.once("ours", partial(measure_ours, setup))
    shardcast = await stages.once("shardcast", partial(measure_shardcast, setup))
    stock = await stages.once("stock", partial(measure_stock, setup))
    show_all(setup, ours, shardcast, stock)
    stages.end()


if __name__ == "__main__":
    trio.run(main)
