"""What the checks look at: paths, settings, and what the daemon says if one runs. Made once."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from primed.node.cli.client import Client
from primed.node.config import Config, load_config
from primed.node.lock import holder
from primed.node.paths import Paths
from primed.node.views import PeersView, StatusView
from primed.p2p.errors import UserError

PROBE_S = 120.0  # torch from a cold disk


@dataclass
class Context:
    paths: Paths
    config: Config | None  # None: they are wrong
    config_error: UserError | None
    status: StatusView | None  # None: no daemon answers
    peers: PeersView | None
    why_no_daemon: str
    silent: UserError | None = None  # what keeps a daemon that does run from answering

    @cached_property
    def probe(self) -> dict[str, Any]:
        """What `primed.training.probe` found; only `error` if it did not come back."""
        command = [sys.executable, "-m", "primed.training.probe"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=PROBE_S, check=False
            )
            found = json.loads(done.stdout)
        except subprocess.TimeoutExpired:
            return {"error": f"torch did not load within {PROBE_S:.0f} s"}
        except ValueError:
            last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
            return {"error": last[0][:300]}
        return found if isinstance(found, dict) else {"error": "no answer"}


def gather(paths: Paths) -> Context:
    """Reads settings and asks the daemon; whatever fails is part of what is found."""
    config, error = None, None
    try:
        config = load_config(paths, {})
    except UserError as wrong:
        error = wrong
    client = Client(paths)
    try:
        status, peers = client.get("status", StatusView), client.get("peers", PeersView)
    except UserError as absent:
        silent = absent if holder(paths.lock) else None
        return Context(paths, config, error, None, None, absent.message, silent)
    return Context(paths, config, error, status, peers, "")
