"""The data directory: private, locked by one process (scenario 16), with a socket path that fits."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from primed.node.lock import held, holder
from primed.node.paths import SOCKET_PATH_MAX_BYTES, Paths
from primed.p2p.errors import UserError

HOLD = """
import sys, time
from pathlib import Path
from primed.node.lock import held
with held(Path(sys.argv[1]), 1_700_000_000_000):
    print("held", flush=True)
    time.sleep(60)
"""


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_directory_is_made_private(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "a" / "node")
    paths.create()
    assert mode_of(paths.root) == 0o700
    assert paths.socket == paths.root / "api.sock"
    paths.create()


def test_a_directory_open_to_others_is_refused_unless_empty(tmp_path: Path) -> None:
    root = tmp_path / "node"
    root.mkdir(mode=0o755)
    Paths(root).create()
    assert mode_of(root) == 0o700
    root.chmod(0o750)
    with pytest.raises(UserError) as caught:
        Paths(root).create()
    assert caught.value.hint == f"close it: chmod 700 {root}"


def test_a_file_or_a_link_is_not_a_data_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link", "file/below"):
        with pytest.raises(UserError):
            Paths(tmp_path / name).create()


def test_a_deep_directory_has_its_socket_elsewhere(tmp_path: Path) -> None:
    paths = Paths(tmp_path / ("d" * 120))
    paths.create()
    socket = paths.socket
    try:
        assert len(os.fsencode(socket)) <= SOCKET_PATH_MAX_BYTES
        assert mode_of(socket.parent) == 0o700
        assert (paths.root / "socket.path").read_text().strip() == str(socket)
        assert Paths(paths.root).socket == socket
        assert Paths(tmp_path / ("e" * 120)).socket != socket
    finally:
        shutil.rmtree(socket.parent)


def test_a_second_daemon_learns_who_holds_the_directory(tmp_path: Path) -> None:
    """Scenario 16: exit code 3 and the holder's pid; a killed holder holds nothing."""
    path = tmp_path / "lock"
    assert holder(path) is None
    child = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None and child.stdout.readline() == b"held\n"
        with pytest.raises(UserError) as caught, held(path, 0):
            pass
        assert caught.value.exit_code == 3
        assert f"process {child.pid}, since 2023-11-14" in caught.value.message
        assert "primed stop" in caught.value.hint
        found = holder(path)
        assert found is not None and found.pid == child.pid
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    with held(path, 5):
        found = holder(path)
        assert found is not None and (found.pid, found.since_unix_ms) == (os.getpid(), 5)
    assert holder(path) is None
