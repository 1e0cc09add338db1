"""Keeps us connected: dials known peers until there are enough, tries again after losses.

`describe` says in one sentence how it stands; nothing here ever gives up.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

import trio

from primed.p2p import limits
from primed.p2p.errors import RemoteError
from primed.p2p.peerbook import PeerBook, read_cache, write_cache

_log = logging.getLogger(__name__)


class Overlay:
    """`dial` connects to a known peer or raises RemoteError; `connected` lists who is."""

    def __init__(
        self,
        book: PeerBook,
        target_peers: int,
        cache_path: Path | None,
        *,
        dial: Callable[[bytes], Awaitable[None]],
        connected: Callable[[], Collection[bytes]],
        excluded: Callable[[bytes], bool],
    ) -> None:
        self._book = book
        self._target_peers = target_peers
        self._cache_path = cache_path
        self._dial = dial
        self._connected = connected
        self._excluded = excluded
        self._dialling: set[bytes] = set()
        self._saved = ""
        self._changed = trio.Event()

    def load(self) -> None:
        """Read the last known good peers; a damaged file is only a loss."""
        if self._cache_path is None:
            return
        try:
            if text := read_cache(self._cache_path):
                self._book.add_json(text)
        except (OSError, ValueError) as error:
            _log.warning("the peer cache %s is not readable: %s", self._cache_path, error)

    def poke(self) -> None:
        """Look again now: a peer came, went or was learnt."""
        self._changed.set()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._save_for_ever)
            while True:
                self._changed = trio.Event()
                for peer in self._choose():
                    self._dialling.add(peer)
                    nursery.start_soon(self._try, peer)
                with trio.move_on_after(limits.OVERLAY_TICK_S):
                    await self._changed.wait()
                    await trio.sleep(0.05)  # a burst of pokes is one

    def _choose(self) -> list[bytes]:
        connected = self._connected()
        missing = self._target_peers - len(connected) - len(self._dialling)
        room = min(missing, limits.DIALS_AT_ONCE - len(self._dialling))
        if room <= 0:
            return []
        due = self._book.due({*connected, *self._dialling}, trio.current_time())
        return [peer for peer in due if not self._excluded(peer)][:room]

    async def _try(self, peer: bytes) -> None:
        try:
            await self._dial(peer)
        except RemoteError as error:
            self._book.failed(peer, trio.current_time(), error.reason)
        finally:
            self._dialling.discard(peer)
            self.poke()

    async def save(self) -> None:
        text = self._book.to_json()
        if self._cache_path is None or text == self._saved:
            return
        try:
            await trio.to_thread.run_sync(write_cache, self._cache_path, text)
            self._saved = text
        except OSError as error:
            _log.warning("cannot write the peer cache %s: %s", self._cache_path, error)

    async def _save_for_ever(self) -> None:
        await trio.sleep(limits.OVERLAY_TICK_S)
        while True:
            await self.save()
            await trio.sleep(limits.CACHE_SAVE_S)

    def describe(self) -> tuple[str, str]:
        """(`online` | `connecting` | `alone`, why)."""
        count = len(self._connected())
        if count:
            return "online", f"connected to {count} peer{'s' if count > 1 else ''}"
        hopes = self._book.hopes()
        if not hopes:
            return "alone", "no bootstrap peer given; waiting for others to join"
        given = sum(known.is_bootstrap for known in hopes.values())
        whom = _count_hopes(given, len(hopes) - given)
        errors = [known.last_error for known in hopes.values() if known.last_error]
        if not errors:
            return "connecting", f"dialling {whom}"
        wait_s = min(known.retry_at_s for known in hopes.values()) - trio.current_time()
        when = f"retrying in {wait_s:.0f} s" if wait_s >= 1 else "retrying now"
        return "connecting", f"no answer from {whom} (last error: {errors[-1]}); {when}"


def _count_hopes(given: int, cached: int) -> str:
    parts = []
    if given:
        parts.append(f"any of the {given} bootstrap peers" if given > 1 else "the bootstrap peer")
    if cached:
        parts.append(f"{cached} peer{'s' if cached > 1 else ''} known from before")
    return " or ".join(parts)
