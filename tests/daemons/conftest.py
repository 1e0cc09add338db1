"""What the daemon tests share: a base checkpoint, and one swarm for all faults.

The toy policy answers every other prompt right, so that nearly every batch has something to learn
from.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from primed.node.demo.swarm import LocalSwarm
from primed.training import models, warmstart, weights

from .books import books_of
from .running import RunningSwarm, publish

ROLES = {
    "relay": ("relay",),
    "learner": ("originator", "learner"),
    "worker-1": ("worker",),
    "worker-2": ("worker",),
    "verifier": ("verifier",),
}


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    torch.set_num_threads(1)
    weights.write(path, models.policy_of(warmstart.make(seed=0, steps=40, right_share=1.0)))
    return path


@pytest.fixture(scope="package")
def begun(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSwarm]:
    folder = tmp_path_factory.mktemp("swarm")
    swarm = LocalSwarm(folder, ROLES)
    try:
        swarm.start()
        made = publish(swarm, folder, base, learner="learner", verifier="verifier")
        made.join(*(name for name in ROLES if name != "learner"))
        made.until(lambda: is_proven(made), "the end of all workers' probation")
        yield made
    finally:
        swarm.stop()


def is_proven(made: RunningSwarm) -> bool:
    """Whether no worker is on probation: from then on versions come without a verifier."""
    workers = [made[name].peer for name in ROLES if "worker" in name]
    newest = max(books_of(made, "relay").states(), key=lambda state: state.number, default=None)
    if newest is None:
        return False
    known = [newest.workers.get(peer) for peer in workers]
    return all(worker is not None and worker.freed_cut is not None for worker in known)


@pytest.fixture
def running(begun: RunningSwarm) -> RunningSwarm:
    """With every daemon up, whatever a test before left."""
    for name in ROLES:
        if not begun[name].is_running():
            begun[name].restart()
    return begun
