"""Is there room on the disk? A full one is a state of the node, not the end of it.

Whoever fails to write says so by `note`; this watches the free space, and takes the problem back
when there is room again. Nothing needs to be repaired then: every file is written beside its
place and moved there when it is complete, and a service that failed is running again by itself.
"""

from __future__ import annotations

import errno
import shutil
import sqlite3
from pathlib import Path

import trio

from primed.node.problems import Problems
from primed.protocols.disk import on_disk

LEAST_BYTES = 64 * 1024 * 1024
TICK_S = 2.0
NOTED_S = 10.0  # a write that failed is tried again within this, if it is to succeed
PROBLEM = "disk"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_SQLITE_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)  # the latter while it opens


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one in its group, says that there is no room."""
    if isinstance(error, BaseExceptionGroup):
        return any(map(is_disk_full, error.exceptions))
    if isinstance(error, sqlite3.OperationalError):
        return error.sqlite_errorcode in _SQLITE_FULL
    return isinstance(error, OSError) and error.errno in _FULL


class DiskWatch:
    def __init__(
        self,
        folder: Path,
        problems: Problems,
        least_bytes: int = LEAST_BYTES,
        noted_s: float = NOTED_S,
    ) -> None:
        self._folder = folder
        self._problems = problems
        self._least_bytes = least_bytes
        self._noted_s = noted_s
        self._noted_until = 0.0
        self.free_bytes = -1  # as last seen

    def note(self) -> None:
        """A write failed for lack of room: one may need more than what is free."""
        self._noted_until = trio.current_time() + self._noted_s
        self._raise(f"no room on the disk of {self._folder}: work that needs files waits")

    def _raise(self, what: str) -> None:
        fix = f"free some space ({_mib(self._least_bytes)} or more); it goes on by itself"
        self._problems.raise_(PROBLEM, what, fix)

    async def run(self) -> None:
        while True:
            self.free_bytes = (await on_disk(shutil.disk_usage, self._folder)).free
            if self.free_bytes < self._least_bytes:
                self._raise(f"only {_mib(self.free_bytes)} are free on the disk of {self._folder}")
            elif trio.current_time() >= self._noted_until:
                self._problems.clear(PROBLEM)
            await trio.sleep(TICK_S)


def _mib(size_bytes: int) -> str:
    return f"{size_bytes // 2**20} MiB"
