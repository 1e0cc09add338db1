"""Lanes: gets leaves from a peer by the best way there is.

The bulk lane, where the network has one, it works with this peer and the peer has shown that it is
fast; else, and for small payloads, libp2p streams: a conversation costs the CPU time of a megabyte on
streams, and several round trips before its first leaf. Chosen anew for each request;
`Network.peers()` shows where the bulk lane would work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import trio

from primed.p2p.errors import HIGH, MID, LocalError, NoLane, RemoteError
from primed.p2p.network import Network, PeerId
from primed.protocols.client import Client
from primed.protocols.disk import on_disk
from primed.protocols.limits import (
    BULK_FROM_BYTES_PER_S,
    BULK_LEAVES,
    BULK_REFUSED_S,
    LEAVES_PER_REQUEST,
    PUSH_MAX_BYTES,
)
from primed.protocols.rpc import Refused
from primed.protocols.shardcast.bulk import Conversation, Pull, purpose_of
from primed.protocols.shardcast.messages import GetLeaves, Have, Leaves, Noted
from primed.protocols.shardcast.reader import leaf_size
from primed.protocols.shardcast.store import PayloadStore
from primed.verify.statements import Payload

_NEWEST = 0.5  # its share in the average of a peer's rate


class Fetched(NamedTuple):
    """leaves: how many were verified and stored; is_bad: the peer sent a false one; lacks: those it
    does not have; busy_s: it wants to be asked again then."""

    leaves: int
    is_bad: bool = False
    lacks: tuple[int, ...] = ()
    busy_s: float = 0.0


class Lanes:
    """bulk_bytes, stream_bytes: verified leaf bytes since start."""

    def __init__(
        self,
        network: Network,
        client: Client[Have | Leaves | Noted],
        store: PayloadStore,
        run_id: bytes,
    ) -> None:
        self.bulk_bytes = 0
        self.stream_bytes = 0
        self._network = network
        self._client = client
        self._store = store
        self._run_id = run_id
        self._conversations: dict[PeerId, Conversation] = {}
        self._rates: dict[PeerId, float] = {}  # bytes a second, lately
        self._refused_until: dict[PeerId, float] = {}
        self._nursery: trio.Nursery | None = None
        network.on_peer(self._forget_on_disconnect)

    async def run(self) -> None:
        """Owns the conversations; until it runs there are only streams."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await trio.sleep_forever()
        finally:
            self._nursery = None

    def width(self, peer: PeerId) -> int:
        """How many leaves this peer may be asked for at a time."""
        return BULK_LEAVES if self._has_bulk(peer) else LEAVES_PER_REQUEST

    async def fetch(
        self,
        peer: PeerId,
        payload: Payload,
        indexes: tuple[int, ...],
        got: Callable[[int], None],
    ) -> Fetched:
        """Ask a peer for leaves; got(index) is called as each is verified and stored. The peer's
        faults are charged, not raised. Raises OSError of our disk."""
        began = trio.current_time()
        fetched = await self._fetch(peer, payload, indexes, got)
        if fetched.leaves:
            rate = fetched.leaves * payload.leaf_bytes / max(trio.current_time() - began, 1e-3)
            before = self._rates.get(peer, rate)
            self._rates[peer] = before + _NEWEST * (rate - before)
        return fetched

    async def _fetch(
        self, peer: PeerId, payload: Payload, indexes: tuple[int, ...], got: Callable[[int], None]
    ) -> Fetched:
        if payload.size_bytes > PUSH_MAX_BYTES and self._has_bulk(peer):
            fetched = await self._over_bulk(peer, payload, indexes, got)
            if fetched is not None:
                return fetched
            self._refused_until[peer] = trio.current_time() + BULK_REFUSED_S
        try:
            return await self._over_streams(peer, payload, indexes[:LEAVES_PER_REQUEST], got)
        except Refused as refusal:
            return Fetched(0, busy_s=refusal.retry_after_ms / 1000)
        except RemoteError:
            return Fetched(0)

    def _has_bulk(self, peer: PeerId) -> bool:
        if self._nursery is None or self._network.bulk is None:
            return False
        if self._rates.get(peer, 0.0) < BULK_FROM_BYTES_PER_S:
            return False
        if self._refused_until.get(peer, 0.0) > trio.current_time():
            return False
        return peer in self._conversations or not self._network.bulk.why_not(peer)

    # ---- the bulk lane

    async def _over_bulk(
        self,
        peer: PeerId,
        payload: Payload,
        indexes: tuple[int, ...],
        got: Callable[[int], None],
    ) -> Fetched | None:
        """None if nothing came of it that the peer could be blamed for."""

        def count(index: int) -> None:
            self.bulk_bytes += leaf_size(payload, index)
            got(index)

        pull = Pull(payload, indexes, count)
        self._conversation(peer).add(pull)
        await pull.ended.wait()
        if isinstance(pull.failure, OSError):
            raise pull.failure
        if pull.leaves or pull.is_bad or pull.failure is None:
            return Fetched(pull.leaves, pull.is_bad, pull.lacks)
        return None

    def _conversation(self, peer: PeerId) -> Conversation:
        if peer not in self._conversations:
            if self._nursery is None:
                raise LocalError("a conversation without a task to own it")
            conversation = self._conversations[peer] = Conversation(self._store)
            self._nursery.start_soon(self._converse, peer, conversation)
        return self._conversations[peer]

    async def _converse(self, peer: PeerId, conversation: Conversation) -> None:
        failure: Exception | None = NoLane("the bulk lane was stopped", peer=peer)
        try:
            if self._network.bulk is not None:
                await self._network.bulk.converse(peer, purpose_of(self._run_id), conversation.talk)
            failure = None
        except (RemoteError, OSError) as error:
            failure = error
        finally:
            del self._conversations[peer]
            conversation.end(failure)

    def _forget_on_disconnect(self, peer: PeerId, is_connected: bool) -> None:
        if not is_connected:
            self._rates.pop(peer, None)
            self._refused_until.pop(peer, None)

    # ---- streams

    async def _over_streams(
        self,
        peer: PeerId,
        payload: Payload,
        indexes: tuple[int, ...],
        got: Callable[[int], None],
    ) -> Fetched:
        answer = await self._client.request(peer, GetLeaves(self._run_id, payload, indexes))
        if not isinstance(answer, Leaves):
            self._network.penalise(peer, MID, "wrong answer")
            return Fetched(0, is_bad=True)
        given = [leaf.index for leaf in answer.leaves]
        for good, leaf in enumerate(answer.leaves):
            fits = leaf.index in indexes and await on_disk(
                self._store.write_leaf, payload, leaf.index, leaf.leaf, leaf.path
            )
            if not fits:
                self._network.penalise(peer, HIGH, "a leaf that is not in the payload")
                return Fetched(good, is_bad=True)
            self.stream_bytes += len(leaf.leaf)
            got(leaf.index)
        asked = indexes[: indexes.index(given[-1])] if given else indexes  # later ones: the cap
        return Fetched(len(set(given)), lacks=tuple(index for index in asked if index not in given))
