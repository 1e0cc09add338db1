"""Ten minutes of churn for `benchmarks.p2p`: what real daemons keep of peers that came and went.

Four daemons that take part in a run stay. Three processes with four peers each come to them; every
few seconds one process is ended, in order, by kill -9, or by kill -9 after it was frozen for so long
that its peers must have given it up. Files and memory of the daemons are compared with what they had
before.
"""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence

from benchmarks.figures import Figure
from benchmarks.p2p_churn import HOSTS, STAYS_S
from benchmarks.p2p_daemons import START_S, Crowd, crowd

DAEMONS = 4
CHURN_S = 600.0
WARM_S = 60.0  # from then on memory should not grow: each cache has seen its first guests
QUIET_S = 45.0  # after the last guest
LIVES_S = 12.0  # of a process, about
FROZEN_S = 25.0  # longer than a ping and its timeout
PROCESSES = 3
LEAVE_S = 60.0


class Guests:
    """The processes that come and go."""

    def __init__(self, bootstrap: Sequence[str]) -> None:
        self._bootstrap = bootstrap
        self._seeds = itertools.count()
        self._running: list[subprocess.Popen[bytes]] = []
        self._frozen: list[tuple[float, subprocess.Popen[bytes]]] = []
        self.processes = 0

    def come(self) -> None:
        while len(self._running) < PROCESSES:
            self.processes += 1
            command = [sys.executable, "-m", "benchmarks.p2p_churn", str(next(self._seeds))]
            self._running.append(subprocess.Popen([*command, *self._bootstrap]))

    def go(self, how: int) -> None:
        """The oldest one, in one of three ways."""
        oldest = self._running.pop(0)
        if how == 0:
            oldest.send_signal(signal.SIGSTOP)
            self._frozen.append((time.monotonic() + FROZEN_S, oldest))
        else:
            oldest.send_signal(signal.SIGKILL if how == 1 else signal.SIGTERM)
        if how:
            oldest.wait(LEAVE_S)
        self.bury(time.monotonic())

    def bury(self, now: float) -> None:
        """Kill those that were frozen for long enough."""
        for over in [each for each in self._frozen if each[0] <= now]:
            self._frozen.remove(over)
            over[1].kill()
            over[1].wait()

    def leave(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()
        self._running.clear()
        self.bury(float("inf"))


def figures() -> Iterator[Figure]:
    """soak_fd_growth: open files of a daemon after the churn less those before it, the largest of
    the daemons. soak_rss_growth_mb: resident memory at the end less that after the first minute."""
    with crowd(DAEMONS) as swarm:
        swarm.start()
        swarm.until_connected(DAEMONS - 1)
        swarm.join_run()
        time.sleep(QUIET_S)
        files, memory = _files(swarm), swarm.rss_mb()
        cpu_s, began = sum(swarm.cpu_s()), time.monotonic()
        guests = Guests([node.address() for node in swarm.nodes])
        try:
            warm = _churn(swarm, guests)
        finally:
            guests.leave()
        percent = 100 * (sum(swarm.cpu_s()) - cpu_s) / (time.monotonic() - began) / DAEMONS
        _until_alone(swarm)
        time.sleep(QUIET_S)
        grown = [after - before for before, after in zip(files, _files(swarm), strict=True)]
        about: dict[str, object] = {
            "daemons": DAEMONS,
            "guest_processes": guests.processes,
            "guests_about": int(guests.processes * HOSTS * (1 + LIVES_S / sum(STAYS_S))),
            "churn_s": CHURN_S,
            "files_before": files,
            "files_after": [b + g for b, g in zip(files, grown, strict=True)],
            "sockets_after": _sockets(swarm),
            "daemon_cpu_percent": round(percent, 1),
        }
        yield Figure("soak_fd_growth", max(grown), "files", "lower", goal=0, about=about)
        end = swarm.rss_mb()
        since_start = max(after - before for before, after in zip(memory, end, strict=True))
        about = {"since_start_mb": round(since_start, 1), "rss_mb": round(max(end), 1)}
        growth = max(after - before for before, after in zip(warm, end, strict=True))
        yield Figure("soak_rss_growth_mb", growth, "MB", "lower", about=about)


def _churn(swarm: Crowd, guests: Guests) -> list[float]:
    """Memory of the daemons after the first minute."""
    began = time.monotonic()
    warm: list[float] = []
    for number in itertools.count():
        guests.come()
        time.sleep(LIVES_S / PROCESSES)
        guests.go(number % 3)
        now = time.monotonic() - began
        if now >= WARM_S and not warm:
            warm = swarm.rss_mb()
        if now >= CHURN_S:
            return warm
    raise AssertionError


def _until_alone(swarm: Crowd) -> None:
    deadline = time.monotonic() + START_S
    while any(node.status().network.peers > DAEMONS - 1 for node in swarm.nodes):
        if time.monotonic() > deadline:
            peers = [node.status().network.peers for node in swarm.nodes]
            raise TimeoutError(f"the daemons still have guests: {peers}")
        time.sleep(1.0)


def _files(swarm: Crowd) -> list[int]:
    return [int(process.num_fds()) for process in swarm.processes()]


def _sockets(swarm: Crowd) -> dict[str, int]:
    """TCP sockets of all daemons by state: what a growth consists of."""
    found = (process.net_connections("tcp") for process in swarm.processes())
    return dict(Counter(str(each.status) for sockets in found for each in sockets))
