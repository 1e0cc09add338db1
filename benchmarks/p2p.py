"""`make bench NAME=p2p`: figures of the network. ARGS=idle, or several parts, for less than all.

| part | figures | takes about |
|---|---|---|
| join | `join_seconds`: real daemons, from their start until each sees all others | 1 minute |
| gossip | `gossip_delivery`, `gossip_amplification` | 2 minutes |
| sim | `sim_nodes_per_cpu_second` | 2 minutes |
| idle | `idle_cpu_percent.n12`, `idle_rss_mb`, also with a run | 8 minutes |
| crowd | `idle_cpu_percent.n50` | 6 minutes |
| soak | `soak_fd_growth`, `soak_rss_growth_mb` | 13 minutes |

What each figure is exactly is said where it is made. A figure is printed as soon as it is known.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from benchmarks import p2p_daemons, p2p_gossip, p2p_soak
from benchmarks.figures import Figure, show
from tests.sim.swarm import simulate

SIM_NODES = 20
SIM_SEEDS = range(8)
SIM_GOAL_CPU_S = 5.0


def sim_figures() -> Iterator[Figure]:
    """sim_nodes_per_cpu_second: nodes times simulated seconds, a CPU-second; whole daemons but for
    network, clock and child processes, with faults and cheats, over SIM_SEEDS seeds of `make sim`."""
    simulate(SIM_SEEDS.stop, SIM_NODES)  # what only the first one has to load
    outcomes = [simulate(seed, SIM_NODES) for seed in SIM_SEEDS]
    cpu_s = sum(outcome.cpu_s for outcome in outcomes)
    simulated_s = sum(outcome.simulated_s for outcome in outcomes)
    failed = [outcome.seed for outcome in outcomes if outcome.failures or outcome.unsettled]
    about = {"nodes": SIM_NODES, "seeds": len(outcomes), "failed": failed}
    rate = SIM_NODES * simulated_s / cpu_s
    yield Figure("sim_nodes_per_cpu_second", rate, "node-s/CPU-s", "higher", about=about)
    a_seed = cpu_s / len(outcomes)
    yield Figure("sim_cpu_seconds_per_seed", a_seed, "CPU-s", "lower", goal=SIM_GOAL_CPU_S)


PARTS = {
    "join": p2p_daemons.join_figures,
    "gossip": p2p_gossip.figures,
    "sim": sim_figures,
    "idle": p2p_daemons.idle_figures,
    "crowd": p2p_daemons.crowd_figures,
    "soak": p2p_soak.figures,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="figures of the network")
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="all without")
    for part in parser.parse_args().parts or PARTS:
        for figure in PARTS[part]():
            show(figure)


if __name__ == "__main__":
    main()
