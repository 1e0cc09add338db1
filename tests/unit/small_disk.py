"""A disk of a few MiB, for what happens when it is full: tmpfs in a mount namespace of its own.

run_on_small_disk(script, mib) runs Python code in a process whose `sys.argv[1]` is that disk.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_SHELL = 'mount -t tmpfs -o size={mib}m,mode=700 none "$1" && shift && exec "$@"'


def run_on_small_disk(folder: Path, script: str, mib: int, timeout_s: float = 60) -> str:
    """What the script prints. Skips the test where namespaces are not allowed."""
    unshare = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    try:
        allowed = subprocess.run([*unshare, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if allowed.returncode:
        pytest.skip(f"no mount namespaces here: {allowed.stderr.strip()[:200]}")
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [*unshare, _SHELL.format(mib=mib), "sh", folder, sys.executable, "-c", script, folder],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if "mount" in done.stderr and done.returncode:
        pytest.skip(f"no tmpfs here: {done.stderr.strip()[:200]}")
    assert done.returncode == 0, done.stderr
    return done.stdout
