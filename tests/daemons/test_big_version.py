"""Versions of more than 12 MiB: too large for gossip, so they are pulled; also after a kill -9 in
the middle of it. The run is no toy: a dishonest engine is refused in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from primed.node.config import DISHONEST_VARIABLE
from primed.node.demo.swarm import LocalSwarm
from primed.training import models, weights
from primed.verify.statements import version_of

from .books import assert_sound, books_of
from .running import PARAMETERS, RunningSwarm, kill_when, publish

pytestmark = pytest.mark.timeout(300)

MIB = 1 << 20
BIG = 12 * MIB
UNITS = 12_576  # of each MLP, 288 of them the toy policy's: 7.3 million parameters, 14 MiB of bf16
ROLES = {
    "learner": ("originator", "learner"),
    "worker": ("worker",),
    "verifier": ("verifier",),
}


def widened(toy: Path, path: Path) -> Path:
    """The toy policy with a wider MLP that answers as before: the new units come in pairs whose
    outputs cancel. Training moves them all."""
    tensors = weights.read(toy)[0]
    torch.manual_seed(0)
    for name, tensor in tensors.items():
        if ".mlp." not in name:
            continue
        inward = name.endswith(("gate_proj.weight", "up_proj.weight"))
        units, width = tensor.shape if inward else tensor.shape[::-1]
        new = (UNITS - units) // 2
        half = models.as_bf16(0.02 * torch.randn((new, width) if inward else (width, new)))
        other = half if inward else half ^ np.uint16(0x8000)  # the sign bit
        tensors[name] = np.concatenate([tensor, half, other], axis=0 if inward else 1)
    weights.write(path, tensors)
    return path


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[LocalSwarm]:
    made = LocalSwarm(tmp_path, ROLES)
    try:
        made.start({"worker": {DISHONEST_VARIABLE: "1"}})
        yield made
    finally:
        made.stop()


def folder_of(running: RunningSwarm, name: str) -> Path:
    return running[name].paths.run(bytes.fromhex(running.run))


def is_pulling(payloads: Path) -> Path | None:
    """A payload of which some leaves, but not all, are on disk."""
    started = (part for part in payloads.glob("*.part") if part.with_suffix(".paths").exists())
    return next(started, None)


def test_a_version_of_12_mib_is_pulled_and_no_cheat_gets_in(
    swarm: LocalSwarm, base: Path, tmp_path: Path
) -> None:
    wide = widened(base, tmp_path / "wide.safetensors")
    parameters = msgspec.structs.replace(PARAMETERS, verdict_s=30, epoch_s=5, anchor_every=100)
    running = publish(
        swarm,
        tmp_path,
        wide,
        learner="learner",
        verifier="verifier",
        config={"intermediate_size": UNITS},
        parameters=parameters,
        toy=False,
    )
    verifier, worker = running["verifier"], running["worker"]
    running.join("verifier")
    payloads = folder_of(running, "verifier") / "payloads"
    kill_when(verifier, lambda: is_pulling(payloads), "a payload on its way")
    running.join("worker")

    problem = running.until(
        lambda: running.problems("worker").get("child-engine"), "the end of the dishonest engine"
    )
    assert "a dishonest engine can only be started in a toy run" in problem
    running.until(lambda: running.view("worker").pulled_bytes >= BIG, "the base checkpoint")
    worker.stop()
    worker.start([running["learner"].address()])
    worker.wait_up()
    verifier.restart()

    running.until(lambda: running.step("learner") >= 2, "two steps", 120)
    manifests = books_of(running, "learner").manifests()
    snapshot, delta = manifests[0].snapshot, manifests[1].delta
    assert snapshot is not None and snapshot.size_bytes >= BIG
    assert delta is not None and delta.size_bytes < BIG
    for name in ROLES:
        file = f"{version_of(manifests[2]).hex()}.safetensors"
        made = folder_of(running, name) / "weights" / file
        running.until(made.exists, f"the weights of step 2 at {name}")
        assert weights.digest_of_file(made) == manifests[2].weights
    assert_sound(running)
