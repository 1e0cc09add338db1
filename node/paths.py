"""The data directory: what lies where, who may read it, and where the API's socket is.

Everything of a node lives under one directory of mode 0700. A unix socket's path is limited to
108 bytes by the kernel, so for a deep data directory the socket lies in a 0700 directory under the
system's temporary directory, and `socket.path` in the data directory says where.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from primed.p2p.errors import UserError

DEFAULT_DATA_DIR = "~/.primed"
SOCKET_PATH_MAX_BYTES = 100  # of the kernel's 108, with room for a suffix while binding


class Paths:
    """Paths only; `create` is the one method that writes."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()

    @property
    def identity(self) -> Path:
        return self.root / "identity.key"

    @property
    def config(self) -> Path:
        return self.root / "primed.toml"

    @property
    def database(self) -> Path:
        return self.root / "primed.db"

    @property
    def sessions(self) -> Path:
        return self.root / "sessions.json"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def run(self, run_id: bytes) -> Path:
        """A run's own folder: weights, learner states, children's work."""
        return self.root / "runs" / run_id.hex()

    @property
    def socket(self) -> Path:
        """Where the running (or next) daemon's API socket is."""
        near = self.root / "api.sock"
        if len(os.fsencode(near)) <= SOCKET_PATH_MAX_BYTES:
            return near
        recorded = self.root / "socket.path"
        if recorded.exists():
            return Path(recorded.read_text().strip())
        import hashlib
        import tempfile

        name = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"primed-{os.getuid()}-{name}" / "api.sock"

    def create(self) -> None:
        """Make the directories. Raises UserError if the directory is someone else's or open to
        others."""
        _make_private(self.root)
        for folder in (self.logs, self.root / "runs"):
            folder.mkdir(mode=0o700, exist_ok=True)
        socket = self.socket
        if socket.parent != self.root:
            _make_private(socket.parent)
            (self.root / "socket.path").write_text(f"{socket}\n")


def find_paths(flag: str | None, environ: Mapping[str, str] = os.environ) -> Paths:
    """The data directory: flag, PRIMED_DATA_DIR, ~/.primed."""
    return Paths(Path(flag or environ.get("PRIMED_DATA_DIR") or DEFAULT_DATA_DIR))


def _make_private(folder: Path) -> None:
    """An existing folder must be ours and closed to others; an empty one of ours is closed."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise UserError(
            f"cannot use {folder}: {error.strerror}", "choose another place with --data-dir"
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise UserError(
            f"{folder} is not a directory of yours", "choose another place with --data-dir"
        )
    if found.st_mode & 0o077:
        if any(folder.iterdir()):
            raise UserError(f"{folder} can be read by others", f"close it: chmod 700 {folder}")
        folder.chmod(0o700)
