"""Keeps the peer book and the scores across lives: loads them at the start, saves them now and then.

A ban is saved within a second, everything else every half minute and at the end. A full or broken
disk costs only the memory; the node goes on and tries again.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from pathlib import Path

import trio

from primed.p2p import limits
from primed.p2p.bookfile import BookFile, Rows
from primed.p2p.peerbook import PeerBook
from primed.p2p.penalties import Scores

_log = logging.getLogger(__name__)
_SOON_S = 1.0


class Memory:
    """`path` None: nothing is kept."""

    def __init__(self, path: Path | None, book: PeerBook, scores: Scores) -> None:
        self._file = BookFile(path) if path else None
        self._book = book
        self._scores = scores
        self._wanted = trio.Event()
        self._is_open = False

    async def load(self) -> None:
        if self._file is None:
            return
        try:
            rows = await trio.to_thread.run_sync(self._file.load)
        except (OSError, sqlite3.Error) as error:
            _log.warning("the peer book cannot be opened, nothing will be kept: %s", error)
            return
        self._is_open = True
        self._book.add_rows(rows.peers, rows.addresses)
        self._scores.add_rows(rows.scores, trio.current_time(), time.time())

    def save_soon(self) -> None:
        self._wanted.set()

    async def run(self) -> None:
        while True:
            self._wanted = trio.Event()
            with trio.move_on_after(limits.BOOK_SAVE_S):
                await self._wanted.wait()
                await trio.sleep(_SOON_S)
            await self._save()

    async def _save(self) -> None:
        if self._file is None or not self._is_open:
            return
        scores = self._scores.rows(trio.current_time(), time.time())
        try:
            await trio.to_thread.run_sync(self._file.save, Rows(*self._book.rows(), scores))
        except sqlite3.Error as error:
            _log.warning("cannot save the peer book: %s", error)

    async def close(self) -> None:
        """Save a last time; also while being cancelled."""
        with trio.move_on_after(limits.STOP_S) as scope:
            scope.shield = True
            await self._save()
        if self._file is not None:
            self._file.close()
        self._is_open = False
