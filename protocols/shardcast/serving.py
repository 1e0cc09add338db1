"""Serving: what others get from us. Answers requests on streams, serves the bulk lane, announces
gained leaves to who asked what we have, and tells the DHT which large payloads are complete here.

Owned by the Shardcast service. Everything sent waits for the upload allowance that all lanes share.
"""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator, Callable
from functools import partial

import trio

from primed.p2p.errors import RemoteError
from primed.p2p.network import Network, PeerId
from primed.protocols.client import Client
from primed.protocols.disk import on_disk
from primed.protocols.limits import (
    ANSWER_WITHIN_S,
    PROVIDE_S,
    PROVIDE_WITHIN_S,
    PUSH_MAX_BYTES,
)
from primed.protocols.rpc import Attachment, Refused, busy
from primed.protocols.server import Reply
from primed.protocols.shardcast.announcer import Announcement, Announcer
from primed.protocols.shardcast.bulk import answer_wants, purpose_of
from primed.protocols.shardcast.messages import (
    Gained,
    GetHave,
    GetLeaves,
    Have,
    Leaf,
    Leaves,
    Noted,
)
from primed.protocols.shardcast.neighbours import Neighbours
from primed.protocols.shardcast.reader import leaf_size
from primed.protocols.shardcast.store import PayloadStore
from primed.verify.statements import Payload

TICK_S = 0.25

Told = Callable[[PeerId, Payload, tuple[int, ...]], Noted]


class Serving:
    """told(peer, payload, indexes): a peer announced leaves to us."""

    def __init__(
        self,
        network: Network,
        client: Client[Have | Leaves | Noted],
        store: PayloadStore,
        run_id: bytes,
        rng: random.Random,
        neighbours: Neighbours,
        told: Told,
    ) -> None:
        self._network = network
        self._client = client
        self._store = store
        self._run_id = run_id
        self._neighbours = neighbours
        self._rng = rng
        self._told = told
        self._announcer = Announcer(store.have, rng)
        self._news = trio.Event()
        self._provides = trio.Event()
        self._telling: dict[PeerId, trio.StrictFIFOLock] = {}  # one announcement to each at a time
        self.sent_bytes = {"streams": 0, "bulk": 0}  # leaves, since the start
        network.on_peer(self._forget_on_disconnect)

    # ---- for the service

    def seed(self, payload: Payload) -> None:
        """A complete payload of ours that nobody has yet."""
        if payload.size_bytes > PUSH_MAX_BYTES:
            self._announcer.seed(payload)
            self.completed()
        self.gained()

    def gained(self) -> None:
        """Leaves of some payload were stored, or found here."""
        self._news.set()

    def completed(self) -> None:
        """Some payload is complete here."""
        self._provides.set()

    def forget(self, payload: Payload) -> None:
        self._announcer.forget(payload)

    async def run(self) -> None:
        """From now on also over the bulk lane, where the network has one."""
        if self._network.bulk is not None:
            soon = trio.lowlevel.current_trio_token().run_sync_soon
            served = partial(soon, self._served, "bulk")
            talk = partial(answer_wants, self._store, self._network.uploads, served)
            self._network.bulk.serve(purpose_of(self._run_id), talk)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._provide)
            while True:
                now, wait_s = trio.current_time(), self._network.uploads.quiet_s()
                if not wait_s:
                    among = len(self._neighbours.connected())
                    for news in self._announcer.due(among, now):
                        nursery.start_soon(self._tell, news)
                    wait_s = TICK_S if self._announcer.is_busy(now) else math.inf
                with trio.move_on_after(wait_s):
                    await self._news.wait()
                self._news = trio.Event()

    async def answer(
        self, peer: PeerId, message: GetHave | GetLeaves | Gained, _: Attachment
    ) -> Reply:
        if isinstance(message, Gained):
            return Reply(self._told(peer, message.payload, message.indexes))
        if isinstance(message, GetHave):
            return Reply(Have(self._shown(peer, message.payload)))
        self._refuse_if_unfit(peer, message.payload)
        return Reply(Leaves(tuple([leaf async for leaf in self._within_cap(peer, message)])))

    # ---- inside

    def _shown(self, peer: PeerId, payload: Payload) -> bytes:
        if self._network.uploads.quiet_s():
            return b""
        self._news.set()
        return bytes(self._announcer.subscribe(peer, payload, trio.current_time()))

    def _refuse_if_unfit(self, peer: PeerId, payload: Payload) -> None:
        reason, wait_s = self._network.uploads.why_not()
        if reason:
            raise busy(reason, wait_s)
        is_large = payload.size_bytes > PUSH_MAX_BYTES
        if is_large and peer in self._neighbours.relayed():
            raise Refused("denied", "nothing large over a relay")

    async def _within_cap(self, peer: PeerId, message: GetLeaves) -> AsyncIterator[Leaf]:
        """Those of the leaves that the upload cap lets pass in time; the first one anyway."""
        until = trio.current_time() + ANSWER_WITHIN_S
        for index in message.indexes:
            read = await on_disk(self._store.read_leaf, message.payload, index)
            if read is None:
                continue
            await self._network.uploads.take(len(read[0]))
            self._served("streams", peer, message.payload, index)
            yield Leaf(index, read[0], tuple(read[1]))
            if trio.current_time() > until:
                return

    def _served(self, lane: str, peer: PeerId, payload: Payload, index: int) -> None:
        self.sent_bytes[lane] += leaf_size(payload, index)
        self._announcer.served(peer, payload, index, trio.current_time())

    async def _tell(self, news: Announcement) -> None:
        message = Gained(self._run_id, news.payload, news.indexes)
        noted = None
        line = self._telling.setdefault(news.peer, trio.StrictFIFOLock())
        try:
            async with line:
                noted = await self._client.request(news.peer, message)
        except RemoteError:
            pass  # it asks again if it still wants to know
        finally:
            if not line.locked():
                self._telling.pop(news.peer, None)
        has, is_wanted = (noted.has, noted.is_wanted) if isinstance(noted, Noted) else ((), False)
        asked = set(news.indexes)
        has = tuple(index for index in has if index in asked)
        self._announcer.arrived(news, has, is_wanted, trio.current_time())

    async def _provide(self) -> None:
        """Best effort; again and again, because records lapse."""
        provided: dict[Payload, float] = {}
        while True:
            await trio.sleep(self._rng.uniform(0, PROVIDE_WITHIN_S))
            for payload in self._store.payloads():
                is_large = payload.size_bytes > PUSH_MAX_BYTES and self._store.path(payload)
                now = trio.current_time()
                if is_large and now - provided.get(payload, -PROVIDE_S) >= PROVIDE_S:
                    provided[payload] = now
                    await self._network.provide(payload.root)
            with trio.move_on_after(PROVIDE_S / 10):
                await self._provides.wait()
            self._provides = trio.Event()
            provided = {p: at for p, at in provided.items() if self._store.path(p)}

    def _forget_on_disconnect(self, peer: PeerId, is_connected: bool) -> None:
        if not is_connected:
            self._announcer.left(peer)
