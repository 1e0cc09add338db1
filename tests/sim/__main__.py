"""`make sim`: many seeds of simulated swarms, one after the other in one process.

What became of each seed is a JSON line in a file that is named after the sources: run again, it goes
on where it stopped, and starts anew once the code has changed. A failing seed is printed with its
broken invariants; `python -m tests.sim --seed N -v` plays it again, event for event.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

import msgspec

from .swarm import Outcome, simulate

ROOT = Path(__file__).parents[2]
SOURCES = ("node", "p2p", "protocols", "training", "verify", "tests/sim")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.seed is not None:
        return _replay(options.seed, options.nodes, options.verbose)
    first, count = options.first, options.seeds
    path = options.folder / f"{sources_digest()}-{options.nodes}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {outcome.seed: outcome for outcome in _read(path)}
    for seed in range(first, first + count):
        if seed not in known:
            known[seed] = outcome = simulate(seed, options.nodes)
            _append(path, outcome)
            _tell(outcome)
    return _summary([known[seed] for seed in range(first, first + count)], path)


def sources_digest() -> str:
    """Of everything that a seed's outcome depends on."""
    total = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:12]


def _replay(seed: int, nodes: int, is_verbose: bool) -> int:
    outcome = simulate(seed, nodes, with_lines=is_verbose)
    for line in outcome.lines:
        print(line)
    _tell(outcome)
    return _summary([outcome], None)


def _read(path: Path) -> Iterator[Outcome]:
    if not path.exists():
        return
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):  # else the process ended while it wrote
            yield msgspec.json.decode(line, type=Outcome)


def _append(path: Path, outcome: Outcome) -> None:
    with path.open("r+b" if path.exists() else "w+b") as file:
        end = file.seek(0, os.SEEK_END)
        data = path.read_bytes()
        if end and not data.endswith(b"\n"):
            file.truncate(data.rfind(b"\n") + 1)
            file.seek(0, os.SEEK_END)
        file.write(msgspec.json.encode(outcome) + b"\n")


def _tell(outcome: Outcome) -> None:
    spent = f"{outcome.cpu_s:.1f} CPU-s, {outcome.simulated_s:.0f} s simulated"
    print(f"seed {outcome.seed}: trace {outcome.digest[:16]}, {spent}", flush=True)
    for failure in [*outcome.failures, *filter(None, [outcome.unsettled])]:
        print(f"seed {outcome.seed} FAILED: {failure}", flush=True)


def _summary(outcomes: Sequence[Outcome], path: Path | None) -> int:
    failed = [outcome.seed for outcome in outcomes if outcome.failures or outcome.unsettled]
    costs = [outcome.cpu_s for outcome in outcomes]
    kept = f"; see {path}" if path else ""
    print(
        f"{len(outcomes)} seeds, {len(failed)} failed; CPU-s a seed: mean {mean(costs):.2f}, "
        f"most {max(costs):.2f}{kept}"
    )
    for seed in failed:
        print(f"again: python -m tests.sim --seed {seed} -v")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "sim")
    parser.add_argument("--seed", type=int, help="play this one only")
    parser.add_argument("-v", dest="verbose", action="store_true", help="with its trace")
    return parser


if __name__ == "__main__":
    sys.exit(main())
