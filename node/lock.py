"""One daemon per data directory: an advisory lock that the kernel drops when its holder dies.

The lock file says who holds it, so that the second daemon can tell. Never deleted: removing a
locked file would let two processes hold two locks of the same name.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import msgspec

from primed.p2p.errors import UserError

EXIT_HELD = 3


class Holder(msgspec.Struct, frozen=True):
    pid: int
    since_unix_ms: int


@contextmanager
def held(path: Path, now_unix_ms: int) -> Iterator[None]:
    """Hold the lock while entered. Raises UserError (exit code 3) that names the holder."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _refusal(path) from None
        text = msgspec.json.encode(Holder(os.getpid(), now_unix_ms))
        os.pwrite(fd, text, 0)  # in place: a full disk might not give back what it was given
        os.ftruncate(fd, len(text))
        yield
    finally:
        os.close(fd)


def holder(path: Path) -> Holder | None:
    """Who holds the lock now; None if nobody does."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(fd)
    finally:
        os.close(fd)
    return None


def _read(fd: int) -> Holder:
    try:
        return msgspec.json.decode(os.pread(fd, 4096, 0), type=Holder)
    except msgspec.DecodeError:  # between its lock and its write
        return Holder(0, 0)


def _refusal(path: Path) -> UserError:
    found = holder(path) or Holder(0, 0)
    since = datetime.fromtimestamp(found.since_unix_ms / 1000).isoformat(" ", "seconds")
    who = f"process {found.pid}, since {since}" if found.pid else "a daemon that is just starting"
    return UserError(
        f"the data directory {path.parent} is held by {who}",
        f"use that daemon (primed status --data-dir {path.parent}), stop it (primed stop "
        f"--data-dir {path.parent}), or give this one its own --data-dir",
        exit_code=EXIT_HELD,
    )
