"""A home network as people have it: a daemon that nobody can dial gets its router to let peers in, says so,
and finds the other daemon in the house by itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .home_network import SETUP

ROOT = Path(__file__).parents[2]


def test_daemons_behind_a_router_are_let_in_and_find_each_other(tmp_path: Path) -> None:
    unshare = ["unshare", "--map-root-user", "--net", "sh", "-c"]
    try:
        allowed = subprocess.run([*unshare, SETUP], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if allowed.returncode:
        pytest.skip(f"no network namespaces here: {allowed.stderr.strip()[:200]}")
    script = f'({SETUP}) && exec "$0" -m tests.net.home_network "$1"'
    done = subprocess.run(
        [*unshare, script, sys.executable, tmp_path],
        capture_output=True,
        text=True,
        timeout=115,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert told["kind"] == "upnp" and told["evidence"] in told["screen"]
    assert "its own address is 20.0.0.2" in told["upnp"]
    for evidence in (told["evidence"], told["doctor"][0]["evidence"]):
        assert "dialled back by" in evidence and "at /ip4/20.0.0.2/tcp/4101" in evidence
        assert "the router 10.0.0.1 leads its port 4101 to 10.0.0.2:4101" in evidence
    assert told["doctor"][0]["result"] == "ok"
    assert told["mappings"] == {"4101": ["10.0.0.2", 4101, 3600]}
    assert told["listen"][0].startswith("/ip4/20.0.0.2/tcp/4101/p2p/")
    assert told["exit"] == 0 and told["left"] == {}
    assert told["mdns"].startswith("announced on 10.0.0.2") and told["mdns"] in told["screen"]
    assert "/ip4/10.0.0.3/tcp/4101" in told["met_at"]
    assert told["other_upnp"] == "no router answers on 10.0.0.3"
