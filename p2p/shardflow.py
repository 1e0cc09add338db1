"""Shardflow: when large gossip messages go to whom, so that few copies cross the wires.

Our own go to one peer first, and that peer's task is to send them on: before all else, for nobody else
has them. What came from others than its origin goes on when such tasks are done, to one peer after
the other. Meanwhile most say that they have it (IDONTWANT, IHAVE, or by sending it), and what a peer
has is dropped from its queue when its turn comes. Full queues are waited for. Used by `router`.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from typing import Protocol

import trio
from libp2p.peer.id import ID

from primed.p2p import limits
from primed.p2p.outbox import Letter, Outbox


class Holders:
    """Which messages our peers have, as far as we know; the newest of each peer. Pure."""

    def __init__(self) -> None:
        self._had: dict[ID, OrderedDict[bytes, None]] = {}

    def note(self, peer_id: ID, message_ids: Iterable[bytes]) -> None:
        had = self._had.setdefault(peer_id, OrderedDict())
        for message_id in message_ids:
            had[message_id] = None
            had.move_to_end(message_id)
        while len(had) > limits.GOSSIP_HELD_IDS:
            had.popitem(last=False)

    def drop(self, peer_id: ID, message_id: bytes) -> None:
        """It asks for this message, so it lacks it."""
        self._had.get(peer_id, OrderedDict()).pop(message_id, None)

    def has(self, peer_id: ID, message_id: bytes) -> bool:
        return message_id in self._had.get(peer_id, ())

    def forget(self, peer_id: ID) -> None:
        self._had.pop(peer_id, None)


class Owner(Protocol):
    """What the router does for us."""

    def outbox(self, peer_id: ID) -> Outbox | None: ...

    def outboxes(self) -> Collection[Outbox]: ...


class Shardflow:
    """`start` runs a task in the background."""

    def __init__(
        self, owner: Owner, start: Callable[..., object], rng: random.Random | None = None
    ) -> None:
        self.holders = Holders()
        self._owner = owner
        self._start = start
        self._rng = rng or random.Random()
        self._held = 0

    async def send_own(self, to: list[ID], letter: Letter) -> None:
        """Our message: to the peer for whom least is waiting; to the rest when all that nobody has
        is out, and who then still lacks it."""
        await trio.lowlevel.checkpoint()  # a burst of ours must not hold the loop
        self._rng.shuffle(to)
        to.sort(key=self._waiting_bytes)
        while to:
            outbox = self._owner.outbox(to.pop(0))
            if outbox is not None and await outbox.put_in_time(letter._replace(is_first=True)):
                break
        if to:
            self._start(self._send_rest, to, letter)

    async def _send_rest(self, to: list[ID], letter: Letter) -> None:
        await self._until_firsts_are_out()
        await trio.sleep(limits.HOLD_OWN_S)
        await self._let_others_begin()
        await self._send_in_turn(to, letter)

    async def _let_others_begin(self) -> None:
        """For a random time, so that of many who could send a message few do, and the rest hear of
        it (Floyd et al. 1995, scalable reliable multicast)."""
        await trio.sleep(self._rng.random() * limits.HOLD_RANDOM_S)

    async def may_send(self, outbox: Outbox) -> None:
        """Return when it is this queue's turn to take from the upload allowance: what nobody else
        will send goes before copies that were asked for, or that another may send, too."""
        await self._until_firsts_are_out(outbox)

    async def _until_firsts_are_out(self, but_of: Outbox | None = None) -> None:
        with trio.move_on_after(limits.FIRST_OUT_S):
            while any(outbox.has_first for outbox in self._owner.outboxes()):
                if but_of is not None and but_of.has_first:
                    break
                await trio.sleep(limits.HOLD_S)

    def send_on(self, to: list[ID], letter: Letter, *, is_ours_to_spread: bool = False) -> bool:
        """A message of another peer; False if too many are held already. is_ours_to_spread: it came
        from its origin, which gives it to us alone at first."""
        if self._held >= limits.HELD_MESSAGES:
            return False
        self._start(self._hold, to, letter._replace(is_first=is_ours_to_spread))
        return True

    async def _hold(self, to: list[ID], letter: Letter) -> None:
        """Sent at once, in a mesh of 7 each 256 KiB shard crossed the wires 5 times a receiver."""
        self._held += 1
        try:
            if not letter.is_first:
                await trio.sleep(limits.HOLD_S)
                await self._until_firsts_are_out()
                await self._let_others_begin()
            self._rng.shuffle(to)
            await self._send_in_turn(to, letter)
        finally:
            self._held -= 1

    async def _send_in_turn(self, to: list[ID], letter: Letter) -> None:
        for peer_id in to:
            outbox = self._owner.outbox(peer_id)
            if outbox is not None and not self.holders.has(peer_id, letter.message_id):
                await outbox.put_in_time(letter)
                await trio.sleep(limits.HOLD_BETWEEN_S)

    def _waiting_bytes(self, peer_id: ID) -> int:
        outbox = self._owner.outbox(peer_id)
        return 0 if outbox is None else outbox.waiting_bytes
