"""Shardcast: payloads by Merkle root, pushed by gossip when small, else pulled from who has them.

The daemon makes one over its PayloadStore, runs `run()` supervised, and says what to expect as
manifests arrive. Whatever is complete or partly here is served to everybody who asks.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import trio

from primed.p2p.errors import LocalError, RemoteError
from primed.p2p.network import Acceptance, PeerId
from primed.protocols.by_run import RunServers
from primed.protocols.disk import on_disk
from primed.protocols.framing import decode, encode
from primed.protocols.limits import (
    DOWNLOADS_MAX,
    MIB,
    PUSH_MAX_BYTES,
    SHARD_REQUESTS_BURST,
    SHARD_REQUESTS_PER_S,
    SHARD_WORDS_BURST,
    SHARD_WORDS_PER_S,
)
from primed.protocols.shardcast.gossip import EarlyShards, validate_shard
from primed.protocols.shardcast.lanes import Lanes
from primed.protocols.shardcast.messages import (
    Noted,
    Shard,
    requests,
    responses,
    shards,
    shards_message,
)
from primed.protocols.shardcast.neighbours import Neighbours
from primed.protocols.shardcast.serving import Serving
from primed.protocols.shardcast.store import PayloadStore
from primed.protocols.shardcast.transfer import News, Tell, Transfer
from primed.protocols.topics import shards_topic
from primed.verify import signing
from primed.verify.statements import Payload

PROTOCOL = "/primed/shardcast/1"


@dataclass(frozen=True)
class Progress:
    """How far a payload is, and in one sentence what it waits for. bytes_per_s: what came in
    lately."""

    leaves_here: int
    leaves: int
    reason: str
    bytes_here: int = 0
    bytes_per_s: float = 0.0

    def left_s(self, size_bytes: int) -> float | None:
        """Seconds that the rest will take at this rate; None while nothing comes."""
        return (size_bytes - self.bytes_here) / self.bytes_per_s if self.bytes_per_s else None

    def words(self, size_bytes: int) -> str:
        """ "12.0 of 64.0 MiB, 1.5 MiB/s, 35 s left"."""
        text = f"{self.bytes_here / MIB:.1f} of {size_bytes / MIB:.1f} MiB"
        left_s = self.left_s(size_bytes)
        if left_s is None:
            return text
        return f"{text}, {self.bytes_per_s / MIB:.1f} MiB/s, {left_s:.0f} s left"


class Shardcast:
    """received_gossip_bytes, received_pulled_bytes: leaf bytes since start, duplicates included;
    the latter by lane in `lanes`. `carried` has them all."""

    def __init__(
        self,
        servers: RunServers,
        store: PayloadStore,
        run_id: bytes,
        identity_peer: bytes,
        sign: signing.Signer,
        rng: random.Random,
    ) -> None:
        self.received_gossip_bytes = 0
        self._pushed_bytes = 0
        self._listeners: list[Tell] = []
        self._network = network = servers.network
        self._store = store
        self._run_id = run_id
        self._me = identity_peer
        self._sign = sign
        self._rng = rng
        self._early = EarlyShards()
        self._transfers: dict[Payload, Transfer] = {}
        self._begun, self._queue = trio.open_memory_channel[Transfer](DOWNLOADS_MAX)
        fetching = servers.client(
            PROTOCOL,
            responses,
            "leaves",
            burst=SHARD_REQUESTS_BURST - SHARD_WORDS_BURST,
            per_s=SHARD_REQUESTS_PER_S - SHARD_WORDS_PER_S,
        )
        self.lanes = Lanes(network, fetching, store, run_id)
        self._talk = servers.client(  # short words do not wait behind leaves
            PROTOCOL, responses, "words", burst=SHARD_WORDS_BURST, per_s=SHARD_WORDS_PER_S
        )
        self._neighbours = Neighbours(network)
        self._serving = Serving(
            network, self._talk, store, run_id, rng, self._neighbours, self._told
        )
        servers.serve(
            PROTOCOL,
            requests,
            run_id,
            self._serving.answer,
            burst=SHARD_REQUESTS_BURST,
            per_s=SHARD_REQUESTS_PER_S,
        )

    # ---- for the daemon

    @property
    def received_pulled_bytes(self) -> int:
        return self.lanes.bulk_bytes + self.lanes.stream_bytes

    def carried(self) -> dict[tuple[str, str], int]:
        """Leaf bytes since the start by lane and direction, copies included. What gossip sends on
        for others is the network's, and not counted here."""
        sent = self._serving.sent_bytes
        return {
            ("gossip", "received"): self.received_gossip_bytes,
            ("gossip", "sent"): self._pushed_bytes,
            ("streams", "received"): self.lanes.stream_bytes,
            ("streams", "sent"): sent["streams"],
            ("bulk", "received"): self.lanes.bulk_bytes,
            ("bulk", "sent"): sent["bulk"],
        }

    def amplification(self) -> float:
        """Leaf bytes that came, for each byte that was new; 0 while nothing was."""
        came_bytes = self.received_gossip_bytes + self.received_pulled_bytes
        return came_bytes / self._store.gained_bytes if self._store.gained_bytes else 0.0

    def under_way(self) -> dict[Payload, Progress]:
        """The payloads that are expected and not here yet."""
        open_ = [each for each in self._transfers.values() if not each.ended.is_set()]
        return {transfer.payload: _progress_of(transfer) for transfer in open_}

    def on_news(self, listener: Tell) -> None:
        """Call it whenever a payload is complete, given up, or does not get on."""
        self._listeners.append(listener)

    def follow(self, learner: PeerId) -> None:
        """Join the topic on which the learner pushes its small payloads."""
        self._network.subscribe(
            shards_topic(self._run_id, learner),
            lambda sender, message: self._validate(learner, message),
            lambda sender, message: self._deliver(message),
        )

    def expect(self, payload: Payload, learner: PeerId) -> None:
        """A manifest names this payload: get it. Again for one that is known: nothing happens.
        The learner is asked like every connected peer."""
        if payload in self._transfers or self._store.path(payload):
            return
        transfer = self._transfers[payload] = Transfer(
            self._network,
            self._talk,
            self._store,
            self._run_id,
            payload,
            learner,
            self._rng,
            self.lanes,
            self._neighbours,
            self._serving.gained,
            self._tell_news,
        )
        for shard in self._early.take(payload):
            transfer.push(shard)
        try:
            self._begun.send_nowait(transfer)
        except trio.WouldBlock:
            transfer.reason = f"waiting: {DOWNLOADS_MAX} payloads are on their way already"

    async def wait(self, payload: Payload) -> Path:
        """The complete, verified file of a payload that is here or expected; the caller sets the
        deadline. Raises RemoteError if it was refused (its bounds) or dropped."""
        transfer = self._transfers.get(payload)
        if transfer is not None:
            await transfer.ended.wait()
            if transfer.path is None:
                raise RemoteError(transfer.refused)
            return transfer.path
        if (path := self._store.path(payload)) is None:
            raise LocalError("waiting for a payload that was not expected")
        return path

    def progress(self, payload: Payload) -> Progress:
        transfer = self._transfers.get(payload)
        if transfer is not None:
            return _progress_of(transfer)
        if self._store.path(payload):
            return Progress(payload.leaves, payload.leaves, "complete", payload.size_bytes)
        return Progress(0, payload.leaves, "not expected")

    def describe(self, payload: Payload) -> str:
        """What the payload waits for, for people: "3 of 64 leaves; …"."""
        at = self.progress(payload)
        return f"{at.words(payload.size_bytes)}; {at.reason}"

    async def add(self, path: Path) -> Payload:
        """Take in a complete, synced, immutable file of ours and serve it from now on; if it is
        large and new, each leaf goes to one peer first (`seeding`)."""
        before = set(self._store.payloads())
        payload = await on_disk(self._store.import_file, path)
        if payload not in before:
            self._serving.seed(payload)
        else:
            self._serving.gained()  # the rest of it
        return payload

    async def push(self, payload: Payload, learner: PeerId) -> bool:
        """Gossip all leaves of our payload in random order, if it is small enough (1 MiB) and these
        are no quiet hours; else peers pull it. Call after the manifest's event was emitted. learner:
        ourselves."""
        if learner != self._me:
            raise LocalError("only the learner itself pushes its payloads")
        if payload.size_bytes > PUSH_MAX_BYTES or self._network.uploads.quiet_s():
            return False
        body = shards_message(self._run_id, learner, payload)
        signature = self._sign(signing.message_to_sign("shards", body))
        topic = shards_topic(self._run_id, learner)
        for index in self._rng.sample(range(payload.leaves), payload.leaves):
            found = await on_disk(self._store.read_leaf, payload, index)
            if found is None:
                raise LocalError("pushing a payload that is not here")
            shard = Shard(payload, signature, index, found[0], tuple(found[1]))
            await self._network.publish(topic, encode(shard))
            self._pushed_bytes += len(shard.leaf)
        return True

    async def forget(self, payload: Payload) -> None:
        """Stop expecting a payload and delete what is here of it."""
        transfer = self._transfers.pop(payload, None)
        if transfer is not None:
            transfer.drop()
        await self._delete(payload)

    async def retain(self, roots: Collection[bytes]) -> None:
        """Forget every payload but those with these roots, those still expected included: what
        others drop by the same rule would be waited for in vain."""
        for payload in {*self._transfers, *self._store.payloads()}:  # as of now: later ones stay
            if payload.root not in roots:
                await self.forget(payload)

    async def _delete(self, payload: Payload) -> None:
        self._serving.forget(payload)
        await on_disk(self._store.delete, payload)

    async def run(self) -> None:
        """Carries out the transfers until cancelled. Started again it goes on where it was."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.lanes.run)
            nursery.start_soon(self._serving.run)
            running: set[Payload] = set()
            while True:
                for transfer in list(self._transfers.values()):
                    begun = transfer.payload in running or transfer.ended.is_set()
                    if not begun and len(running) < DOWNLOADS_MAX:
                        running.add(transfer.payload)
                        nursery.start_soon(self._carry, transfer, running)
                with trio.move_on_after(1.0):
                    await self._queue.receive()

    # ---- inside

    async def _carry(self, transfer: Transfer, running: set[Payload]) -> None:
        await transfer.run()
        running.discard(transfer.payload)
        if transfer.path is not None:
            if self._transfers.get(transfer.payload) is transfer:
                del self._transfers[transfer.payload]
            self._serving.completed()

    def _tell_news(self, news: News) -> None:
        for listener in self._listeners:
            listener(news)

    def _told(self, peer: PeerId, payload: Payload, indexes: tuple[int, ...]) -> Noted:
        transfer = self._transfers.get(payload)
        return transfer.tell(peer, indexes) if transfer else Noted((), is_wanted=False)

    def _is_here(self, payload: Payload, index: int) -> bool:
        have = self._store.have(payload)
        return (have is not None and index in have) or (payload, index) in self._early

    def _validate(self, learner: PeerId, message: bytes) -> Acceptance:
        return validate_shard(self._run_id, learner, self._is_here, message).acceptance

    def _deliver(self, message: bytes) -> None:
        shard = decode(shards, message)
        self.received_gossip_bytes += len(shard.leaf)
        transfer = self._transfers.get(shard.payload)
        if transfer is None:
            self._early.add(shard)
        else:
            transfer.push(shard)


def _progress_of(transfer: Transfer) -> Progress:
    return Progress(
        transfer.leaves_here,
        transfer.payload.leaves,
        transfer.reason,
        transfer.bytes_here,
        transfer.bytes_per_s(),
    )
