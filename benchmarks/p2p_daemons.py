"""Real daemons for `benchmarks.p2p`: how long they need to find each other, what they cost at rest.

`primed start` processes on loopback, each with its own data directory; the first one is everybody's
bootstrap peer. CPU and memory are those of the daemons alone, from the system's accounts of each
process, so that a busy machine does not count.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median

import psutil  # type: ignore[import-untyped]

from benchmarks.figures import Figure
from primed.node.demo.recipe import write_run_file
from primed.node.demo.swarm import LocalNode
from primed.node.views import RunView

START_S = 240.0  # for daemons that start at once on few cores
AT_ONCE = 6  # of a crowd that is not timed
SETTLE_S, WINDOW_S = 75.0, 120.0  # looks around grow rarer after a join; then one falls in a window
POLL_S = 0.1
STEPS = 1_000_000  # of a run that nobody works on


class Crowd:
    """Daemons, and the processes behind them."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        # "relay" joins a run without a child process
        self.nodes = [LocalNode(f"n{i}", folder / f"n{i}", ("relay",)) for i in range(size)]
        self.bootstrap: list[str] = []

    def start(self, at_once: int = AT_ONCE) -> None:
        """All but one of them at once, or few at a time; until each answers."""
        first, *others = self.nodes
        if not self.bootstrap:
            # A home node has 38 places for those who dial it, and is not meant for everybody's
            # bootstrap peer in a larger swarm: the rest would wait for its one place for guests.
            first.start(options=["--profile", "server"] if len(self.nodes) > 30 else ())
            first.wait_up(START_S)
            self.bootstrap = [first.address()]
        for begin in range(0, len(others), at_once):
            self._start(others[begin : begin + at_once])

    def _start(self, nodes: Sequence[LocalNode]) -> None:
        for node in nodes:
            node.start(self.bootstrap)
        for node in nodes:
            node.wait_up(START_S)

    def newcomer(self) -> LocalNode:
        """One more, not started yet."""
        number = len(self.nodes)
        self.nodes.append(LocalNode(f"n{number}", self.folder / f"n{number}", ("relay",)))
        return self.nodes[-1]

    def until_connected(self, to: int, nodes: Sequence[LocalNode] | None = None) -> None:
        """Until each has so many peers."""
        deadline = time.monotonic() + START_S
        for node in nodes or self.nodes:
            while node.status().network.peers < to:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{node.name}: {node.status().network}")
                time.sleep(POLL_S)

    def processes(self) -> list[psutil.Process]:
        return [psutil.Process(node.process.pid) for node in self.nodes if node.process]

    def cpu_s(self) -> list[float]:
        times = (process.cpu_times() for process in self.processes())
        return [float(time.user + time.system) for time in times]

    def rss_mb(self) -> list[float]:
        return [process.memory_info().rss / 1e6 for process in self.processes()]

    def join_run(self) -> None:
        """All take part in a toy run without a worker: topics, chains and cuts, and no work."""
        weights = self.folder / "base.safetensors"
        command = [sys.executable, "-m", "primed.training.warmstart", "--out", str(weights)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        run_file = self.folder / "run.toml"
        listed = [self.nodes[0].peer]
        write_run_file(run_file, weights, learners=listed, verifiers=listed, steps=STEPS)
        run = self.nodes[0].client.post("publish", RunView, spec_path=str(run_file)).run
        for node in self.nodes[1:]:
            node.join(run)

    def stop(self) -> None:
        for node in self.nodes:
            if node.process is not None and node.is_running():
                node.process.terminate()
        for node in self.nodes:
            node.stop()


@contextmanager
def crowd(size: int) -> Iterator[Crowd]:
    """Nothing of it is left afterwards."""
    with tempfile.TemporaryDirectory(prefix="primed-bench-") as folder:
        made = Crowd(Path(folder), size)
        try:
            yield made
        finally:
            made.stop()


def join_figures(size: int = 12) -> Iterator[Figure]:
    """join_seconds: the bootstrap daemon is up; from the start of the other eleven processes, all
    at once, until each of the twelve is connected to each other one. `cpu_s`: what the twelve had
    used by then, most of it for importing Python modules. join_seconds.newcomer: the same for one
    more daemon that comes to the twelve."""
    with crowd(size) as swarm:
        first = swarm.nodes[0]
        first.start()
        first.wait_up(START_S)
        swarm.bootstrap = [first.address()]
        began = time.monotonic()
        swarm.start(at_once=size)
        swarm.until_connected(size - 1)
        about = {"daemons": size, "cpu_s": round(sum(swarm.cpu_s()), 1)}
        yield Figure("join_seconds", time.monotonic() - began, "s", "lower", about=about)
        newcomer, began = swarm.newcomer(), time.monotonic()
        newcomer.start(swarm.bootstrap)
        newcomer.wait_up(START_S)
        swarm.until_connected(size, [newcomer])
        yield Figure("join_seconds.newcomer", time.monotonic() - began, "s", "lower")


def idle_figures() -> Iterator[Figure]:
    """Twelve daemons, then twelve with a run, then fifty."""
    with crowd(12) as swarm:
        swarm.start()
        swarm.until_connected(11)
        yield _idle("idle_cpu_percent.n12", swarm, goal=2.0)
        memory = swarm.rss_mb()
        yield Figure("idle_rss_mb", max(memory), "MB", "lower", goal=150, about=_spread(memory))
        swarm.join_run()
        yield _idle("idle_cpu_percent.n12.run", swarm, goal=2.0)
        memory = swarm.rss_mb()
        yield Figure("idle_rss_mb.run", max(memory), "MB", "lower", goal=150, about=_spread(memory))


def crowd_figures() -> Iterator[Figure]:
    """Fifty daemons; the bootstrap peer has the profile `server`."""
    with crowd(50) as swarm:
        swarm.start()
        swarm.until_connected(12)
        yield _idle("idle_cpu_percent.n50", swarm)
        memory = swarm.rss_mb()
        yield Figure("idle_rss_mb.n50", max(memory), "MB", "lower", about=_spread(memory))


def _idle(name: str, swarm: Crowd, goal: float | None = None) -> Figure:
    """Of one core, mean over the daemons; in a window that begins when they have settled."""
    time.sleep(SETTLE_S)
    before, began = swarm.cpu_s(), time.monotonic()
    time.sleep(WINDOW_S)
    after, wall_s = swarm.cpu_s(), time.monotonic() - began
    percents = [100 * (b - a) / wall_s for a, b in zip(before, after, strict=True)]
    peers = [node.status().network.peers for node in swarm.nodes]
    about = {**_spread(percents), "peers_median": median(peers), "load": psutil.getloadavg()[0]}
    return Figure(name, mean(percents), "%", "lower", goal=goal, about=about)


def _spread(values: Sequence[float]) -> dict[str, object]:
    return {"least": round(min(values), 2), "most": round(max(values), 2), "daemons": len(values)}
