"""Simulated swarms of whole daemons: a handful of the seeds that `make sim` goes through.

Each seed draws cheats, churn, partitions, frozen machines, clocks and lines, and is judged by
`invariants`: scenarios 2, 8 to 11, 21, 28 to 32 in one run or another.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from . import __main__ as command
from .swarm import simulate


@pytest.mark.parametrize("seed", [3, 128])
def test_a_swarm_of_20_comes_through(seed: int) -> None:
    outcome = simulate(seed, 20)
    assert not outcome.failures
    assert not outcome.unsettled


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed",
    [
        115,  # a copier that found nothing to copy yet
        132,  # verifiers cut off from holders; a learner with one honest worker
        141,  # an equivocation during a partition
        254,  # workers of one learner went over to the other, and were still counted
        1692,  # a batch inspected while it was over and deleted, then reopened
        1922,  # a learner that no worker has first
    ],
)
def test_seeds_that_failed_once_do_not_any_more(seed: int) -> None:
    outcome = simulate(seed, 20)
    assert not outcome.failures
    assert not outcome.unsettled


def test_the_same_seed_gives_the_same_trace() -> None:
    first, again = (simulate(5, 10, with_lines=True) for _ in range(2))
    assert first.lines == again.lines
    assert first.digest == again.digest
    assert first.digest != simulate(6, 10).digest


def test_the_same_seed_gives_the_same_trace_in_processes_that_hash_differently() -> None:
    """Sets of bytes and of names have another order in each."""
    arguments = [sys.executable, "-m", "tests.sim", "--seed", "5", "--nodes", "10", "-v"]
    told = [
        subprocess.run(
            arguments,
            cwd=command.ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    first, again = ([line for line in text.splitlines() if "CPU-s" not in line] for text in told)
    assert len(first) > 100
    assert first == again


def test_a_run_over_seeds_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--nodes", "10", "--folder", str(tmp_path)]
    assert command.main(["--seeds", "1", *options]) == 0
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes() + b'{"seed": 1, "half a li')  # ended while it wrote
    capsys.readouterr()
    assert command.main(["--seeds", "2", *options]) == 0
    told = capsys.readouterr().out
    assert "seed 0" not in told
    assert "seed 1: trace" in told
    assert "2 seeds, 0 failed" in told
    assert path.read_bytes().count(b"\n") == 2
