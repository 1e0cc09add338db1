"""`primed` as a user runs it against a daemon of the tests: output, exit code, CPU time."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from primed.node.demo.swarm import LocalNode

PRIMED = Path(sys.executable).with_name("primed")
TIMEOUT_S = 60


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str
    cpu_s: float


def primed(*arguments: str, environ: dict[str, str] | None = None) -> Done:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PRIMED_")}
    before = _cpu_of_children_s()
    done = subprocess.run(
        [PRIMED, *arguments],
        env=kept | {"COLUMNS": "200"} | (environ or {}),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr, _cpu_of_children_s() - before)


def _cpu_of_children_s() -> float:
    """Of the processes that this one has started and waited for so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def primed_json(node: LocalNode, *arguments: str) -> dict[str, Any]:
    """What the command prints with --json against this node's daemon."""
    done = primed(*arguments, "--json", "--data-dir", str(node.paths.root))
    assert done.code == 0, done.err + done.out
    found = json.loads(done.out)
    assert isinstance(found, dict)
    return found
