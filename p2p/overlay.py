"""Keeps us connected: dials known peers until there are enough, tries again after losses.

Also when there are enough, a bootstrap peer that we are not connected to is looked in on now and
then: two halves of a swarm that began apart become one that way. And whoever came to us, some are
always there because we dialled them; and if too few of those connected are chosen (`connections`), say
because the crowd is of one network, peers of other networks are dialled. The crowd makes room for
them. `describe` says in one sentence how it stands; nothing here ever gives up.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection
from typing import NamedTuple

import trio

from primed.p2p import limits, peerid
from primed.p2p.errors import RemoteError
from primed.p2p.peerbook import PeerBook
from primed.p2p.waits import OpenWaits

REDIALS_TOLD = 16


class Redial(NamedTuple):
    peer: bytes
    last_error: str
    in_s: float
    failures: int
    since_s: float  # since the last failure


class Overlay:
    """`dial` connects to a known peer or raises RemoteError; `connected` lists who is; `make_room`
    sees to it that one more connection can be made; `dialled` counts the connections that we made."""

    def __init__(
        self,
        book: PeerBook,
        target_peers: int,
        *,
        waits: OpenWaits,
        dial: Callable[[bytes], Awaitable[None]],
        connected: Callable[[], Collection[bytes]],
        excluded: Callable[[bytes], bool],
        dialled: Callable[[], int],
        chosen: Callable[[], Collection[bytes]] | None = None,
        make_room: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
    ) -> None:
        self._book = book
        self._target_peers = target_peers
        self._waits = waits
        self._dial = dial
        self._connected = connected
        self._excluded = excluded
        self._dialled = dialled
        self._chosen = chosen or connected
        self._make_room = make_room
        self._dialling: set[bytes] = set()
        self._probe_at_s = math.inf  # set when `run` begins
        self._changed = trio.Event()

    def poke(self) -> None:
        """Look again now: a peer came, went or was learnt."""
        self._changed.set()

    async def run(self) -> None:
        self._probe_at_s = trio.current_time() + limits.PROBE_S
        async with trio.open_nursery() as nursery:
            while True:
                self._changed = trio.Event()
                needs_room = len(self._connected()) >= self._target_peers
                for peer in self._choose():
                    self._dialling.add(peer)
                    nursery.start_soon(self._try, peer, needs_room)
                with trio.move_on_after(limits.OVERLAY_TICK_S):
                    await self._changed.wait()
                    await trio.sleep(0.05)  # a burst of pokes is one

    def _choose(self) -> list[bytes]:
        return [*self._choose_missing(), *self._choose_probe()]

    def _choose_missing(self) -> list[bytes]:
        connected = self._connected()
        missing = self._target_peers - len(connected)
        missing = max(missing, self._target_peers // limits.DIALLED_SHARE - self._dialled())
        unlike = missing <= len(self._dialling)
        if unlike:
            missing = min(limits.CHOSEN_WANTED, self._target_peers) - len(self._chosen())
        room = min(missing, limits.DIALS_AT_ONCE) - len(self._dialling)
        if room <= 0:
            return []
        without = {*connected, *self._dialling}
        due = self._book.due(without, trio.current_time(), unlike=unlike)
        return [peer for peer in due if not self._excluded(peer)][:room]

    def _choose_probe(self) -> list[bytes]:
        now_s = trio.current_time()
        if now_s < self._probe_at_s:
            return []
        self._probe_at_s = now_s + limits.PROBE_S
        peer = self._book.to_probe({*self._connected(), *self._dialling}, now_s)
        return [] if peer is None or self._excluded(peer) else [peer]

    async def _try(self, peer: bytes, needs_room: bool) -> None:
        try:
            if needs_room:
                await self._make_room()
            with self._waits.named("a connection", f"peer {peerid.short(peer)}", limits.CONNECT_S):
                await self._dial(peer)
        except RemoteError as error:
            self._book.failed(peer, trio.current_time(), error.reason)
        finally:
            self._dialling.discard(peer)
            self.poke()

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

    def redials(self) -> list[Redial]:
        """Peers that we will dial again, and would like to be connected to; the next ones first."""
        connected, now_s = self._connected(), trio.current_time()
        if len(connected) >= self._target_peers:
            return []
        waiting = [
            Redial(
                peer,
                entry.last_error,
                max(0.0, entry.retry_at_s - now_s),
                entry.failures,
                now_s - entry.failed_at_s,
            )
            for peer, entry in self._book.hopes().items()
            if peer not in connected and entry.failures
        ]
        return sorted(waiting, key=lambda redial: redial.in_s)[:REDIALS_TOLD]


def _count_hopes(given: int, cached: int) -> str:
    parts = []
    if given:
        parts.append(f"any of the {given} bootstrap peers" if given > 1 else "the bootstrap peer")
    if cached:
        parts.append(f"{cached} peer{'s' if cached > 1 else ''} known from before")
    return " or ".join(parts)
