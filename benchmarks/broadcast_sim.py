"""`python -m benchmarks.broadcast_sim`: the pull swarm in virtual time, at sizes that no machine holds.

The code that decides (downloads, announcements, super-seeding) is the real one; the network is
`pull_model`'s: uplinks that differ (half, once, twice their mean; the origin has the mean), 20 to 300
ms of round trip between two nodes, and a share of nodes that nobody can dial, so that two of them
never talk. Each figure stands beside the least time there is for the same uplinks (its baseline).
ARGS="--nodes 64 256 1024 --seeds 3". What was simulated is kept (`stages`).
"""

from __future__ import annotations

import argparse
import math
import random
from functools import partial
from statistics import median
from typing import Any

import trio

from benchmarks.figures import Figure, show
from benchmarks.pull_model import LEAF_BYTES, Swarm
from benchmarks.stages import Stages

MIB = 1 << 20
PAYLOAD_BYTES = 64 * MIB
MEAN_BYTES_PER_S = 1.0 * MIB
UPLINKS = (0.5, 1.0, 2.0)  # in a ratio of 4, in equal numbers
LATENCY_S = (0.005, 0.075)  # one way, from a node to the core: a round trip passes four of them
HIDDEN = (0.0, 0.3, 0.6, 0.8)  # shares of nodes that nobody can dial
PATIENCE_S = 3600.0


def make(nodes: int, hidden: float, seed: int) -> Swarm:
    rng = random.Random(f"{nodes} {hidden} {seed}")
    scale = MEAN_BYTES_PER_S * len(UPLINKS) / sum(UPLINKS)
    uplinks = [scale * UPLINKS[number % len(UPLINKS)] for number in range(nodes - 1)]
    public = [number >= hidden * (nodes - 1) for number in range(nodes - 1)]
    rng.shuffle(uplinks)
    rng.shuffle(public)
    latency_s = [rng.uniform(*LATENCY_S) for _ in range(nodes)]
    return Swarm(
        PAYLOAD_BYTES // LEAF_BYTES,
        [MEAN_BYTES_PER_S, *uplinks],
        [True, *public],  # a learner that nobody could dial would serve public nodes only
        latency_s,
        seed,
    )


def bound_s(swarm: Swarm) -> float:
    """No schedule is faster: each leaf leaves the origin once and then at most doubles its holders in
    the time the fastest uplink takes for it; all copies pass some uplink; and what hidden nodes get
    passes uplinks of public ones."""
    count, up = len(swarm.uplinks), swarm.uplinks
    of_public = sum(each for each, is_public in zip(up, swarm.public, strict=True) if is_public)
    hidden = count - sum(swarm.public)
    doublings = math.log2(count / 2)
    return max(
        PAYLOAD_BYTES / up[0] + doublings * LEAF_BYTES / max(up),
        (count - 1) * PAYLOAD_BYTES / sum(up),
        hidden * PAYLOAD_BYTES / of_public,
    )


async def simulate(nodes: int, hidden: float, seeds: int) -> dict[str, Any]:
    """Medians over the seeds, in W/u of the mean uplink."""
    found: dict[str, list[float]] = {"last": [], "p95": [], "median": [], "bound": [], "sent": []}
    for seed in range(seeds):
        swarm = make(nodes, hidden, seed)
        swarm.run(PATIENCE_S)
        if len(swarm.done_at) < nodes - 1:
            raise RuntimeError(f"{nodes - 1 - len(swarm.done_at)} of {nodes} nodes did not finish")
        done = sorted(swarm.done_at.values())
        found["last"].append(done[-1])
        found["p95"].append(done[int(0.95 * len(done))])
        found["median"].append(median(done))
        found["bound"].append(bound_s(swarm))
        found["sent"].append(swarm.sent_leaves / swarm.leaves / (nodes - 1))
    unit_s = PAYLOAD_BYTES / MEAN_BYTES_PER_S
    units = {name: median(found[name]) / unit_s for name in ("last", "p95", "median", "bound")}
    return {**units, "sent": median(found["sent"])}


async def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.broadcast_sim")
    parser.add_argument("--nodes", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument(
        "--seeds", type=int, default=3, help="of the smallest; fewer of larger ones"
    )
    args = parser.parse_args()
    stages = Stages("broadcast_sim", vars(args))
    for nodes in args.nodes:
        seeds = max(1, args.seeds * min(args.nodes) // nodes)
        for hidden in HIDDEN:
            name = f"broadcast_time_sim.n{nodes}.hidden{100 * hidden:.0f}"
            found = await stages.once(name, partial(simulate, nodes, hidden, seeds))
            about: dict[str, object] = {
                key: round(found[key], 3) for key in ("median", "p95", "sent")
            }
            about["seeds"] = seeds
            show(Figure(name, found["last"], "W/u", "lower", found["bound"], about=about))
    stages.end()


if __name__ == "__main__":
    trio.run(main)
