"""`make bench NAME=update`: a new version of SmolLM2-135M, from its learner into every worker's engine.

First the sizes of deltas after real optimiser steps and mixes at three learning rates
(`update_versions`), then real nodes on loopback: one learner, WORKERS workers, each a libp2p host and
an engine's child (`update_node`), without and with an upload cap. `update_seconds` is the time from
the learner taking in the file to the last worker's first batch; the step before, encoding, is told
beside. An interrupted run goes on where it was; a finished one leaves only the converted model.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import trio

from benchmarks import smollm
from benchmarks.figures import Figure, show
from benchmarks.swarm import Member, swarm
from benchmarks.update_versions import RATES, H, Workshop
from primed.verify.digests import content_digest

WORKERS = 4
CAPS = {"": math.inf, ".20mbit": 20e6 / 8}  # bytes a second
MAIN = "lr3e-6"
LONG_S = 600.0
SIZES_CODE = "update_[lrv]*.py"  # learner, rollouts, versions
RATIO_GOALS = {MAIN: 100.0}
GAP_GOAL, STALL_GOAL_MS = 2.5, 50.0
Record = dict[str, Any]


class Progress:
    """What is measured already, one JSON object a line; it counts for the same code only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self._lines: list[Record] = [json.loads(line) for line in lines]

    def of(self, part: str, code: str, measure: Callable[[], Any]) -> Any:
        """code: a pattern of this folder's files that the measurement depends on."""
        sources = sorted(Path(__file__).parent.glob(code))
        made_by = content_digest(b"".join(path.read_bytes() for path in sources)).hex()
        for line in self._lines:
            if (line["part"], line["code"]) == (part, made_by):
                return line["found"]
        line = {"part": part, "code": made_by, "found": measure()}
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        return line["found"]


def size_figures(name: str, found: Record) -> Iterator[Figure]:
    steps, mixes = found["steps"], found["mixes"]
    full, delta = (mean(s[key] for s in steps) for key in ("full_bytes", "delta_bytes"))
    gap, mixed = mean(s["gap_zstd_bytes"] for s in steps), mean(m["delta_bytes"] for m in mixes)
    about = {
        "delta_bytes": round(delta),
        "changed_percent": round(mean(s["changed_percent"] for s in steps), 3),
        "ratios": [round(s["full_bytes"] / s["delta_bytes"], 1) for s in steps],
        "encode_cpu_s": median(s["encode_cpu_s"] for s in steps),
    }
    goal = RATIO_GOALS.get(name)
    yield Figure(f"update_bytes_ratio.{name}", full / delta, "x", "higher", goal=goal, about=about)
    yield Figure(
        f"update_vs_gap_zstd.{name}",
        gap / delta,
        "x",
        "higher",
        goal=GAP_GOAL,
        about={"gap_zstd_ratio": round(full / gap, 1)},
    )
    about = {
        "steps_a_round": H,
        "mix_to_step_bytes": round(mixed / delta, 2),
        "ratios": [round(m["full_bytes"] / m["delta_bytes"], 1) for m in mixes],
        "changed_percent": [round(m["changed_percent"], 2) for m in mixes],
        "vs_gap_zstd": [round(m["gap_zstd_bytes"] / m["delta_bytes"], 2) for m in mixes],
    }
    share = mixed / (H * delta + mixed)
    yield Figure(f"update_mix_share.{name}", share, "of delta bytes", "lower", about=about)


# ---- real nodes


@dataclass(frozen=True)
class Update:
    """A file that turns `base` into the version with these weights; is_delta: else it is that."""

    name: str
    base: Path
    file: Path
    weights: str
    is_delta: bool = True


def updates(folder: Path, sizes: dict[str, Record]) -> list[Update]:
    """One at each learning rate, the mix after the main one's last step, and the whole of it."""
    found = [
        Update(
            f"delta.{name}",
            folder / f"{name}-old",
            folder / f"{name}-step",
            record["steps"][-1]["weights"],
        )
        for name, record in sizes.items()
    ]
    old, new = folder / f"{MAIN}-old", folder / f"{MAIN}-new"
    mixed, stepped = (sizes[MAIN][kind][-1]["weights"] for kind in ("mixes", "steps"))
    found.append(Update("mix", new, folder / f"{MAIN}-mix", mixed))
    found.append(Update("full", old, new, stepped, is_delta=False))
    return found


async def carried(todo: list[Update], cap_bytes_per_s: float) -> dict[str, Record]:
    """Each update through a swarm of its own processes, one after another."""
    with tempfile.TemporaryDirectory(dir=smollm.cache_folder()) as folder:
        module, home = "benchmarks.update_node", Path(folder)
        async with swarm(home, 1 + WORKERS, cap_bytes_per_s, "node", module) as members:
            peer = await members[0].hears("peer", LONG_S)
            for member in members[1:]:
                await member.tell(follow=peer)
            return {
                update.name: await _carried(number, update, members)
                for number, update in enumerate(todo, 1)
            }


async def _carried(number: int, update: Update, members: list[Member]) -> Record:
    learner, *workers = members
    for worker in workers:
        worker.said.pop("prepared", None)
        worker.said.pop("updated", None)
        await worker.tell(base=str(update.base))
    for worker in workers:
        await worker.hears("prepared", LONG_S)
    for member in members:
        await member.tell(restart=True)
    before = [await worker.describe() for worker in workers]
    await learner.tell(
        publish={
            "file": str(update.file),
            "weights": update.weights,
            "step": number,
            "is_delta": update.is_delta,
        }
    )
    loaded = [await worker.hears("updated", LONG_S) for worker in workers]
    published = await learner.hears("published", LONG_S)
    assert {told["step"] for told in (*loaded, published)} == {number}
    after = [await member.describe() for member in members]
    stall = max(after, key=lambda told: float(told["loop_stall_s"]))

    def total(what: str) -> float:
        pairs = zip(after[1:], before, strict=True)
        return float(sum(now[what] - then[what] for now, then in pairs))

    return {
        "bytes": update.file.stat().st_size,
        "seconds": max(told["loaded"] for told in loaded) - published["at"],
        "until": {
            key: round(max(told[key] for told in loaded) - published["at"], 2)
            for key in ("heard", "arrived", "made", "loaded")
        },
        "received": {lane: total(lane) for lane in ("bulk_bytes", "stream_bytes", "gossip_bytes")},
        "worker_cpu_s": round(total("cpu_s") / len(workers), 2),
        "stall_ms": 1e3 * stall["loop_stall_s"],
        "stall_in": stall["loop_stall_in"],
    }


def time_figures(cap: str, found: dict[str, Record]) -> Iterator[Figure]:
    full = found["full"]["seconds"]
    for name, record in found.items():
        name = name.removesuffix(f".{MAIN}")
        about = {
            key: record[key] for key in ("bytes", "until", "received", "worker_cpu_s", "stall_ms")
        }
        baseline = None if name == "full" else full
        seconds = record["seconds"]
        yield Figure(f"update_seconds.{name}{cap}", seconds, "s", "lower", baseline, about=about)


def main() -> None:
    cache = smollm.cache_folder()
    folder = cache / "update"
    folder.mkdir(exist_ok=True)
    progress, workshop = Progress(folder / "figures.jsonl"), Workshop(folder)
    sizes: dict[str, Record] = {}
    for name in RATES:
        sizes[name] = progress.of(name, SIZES_CODE, partial(workshop.measure, name))
        for figure in size_figures(name, sizes[name]):
            show(figure)
    stalls = []
    for cap, bytes_per_s in CAPS.items():
        todo = updates(folder, sizes)
        found = progress.of(
            f"nodes{cap}", "update*.py", partial(trio.run, carried, todo, bytes_per_s)
        )
        for figure in time_figures(cap, found):
            show(figure)
        stalls += [(record["stall_ms"], record["stall_in"]) for record in found.values()]
    worst_ms, where = max(stalls)
    about = {"in_task": where}
    show(Figure("loop_stall_ms", worst_ms, "ms", "lower", goal=STALL_GOAL_MS, about=about))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
