"""Leaves over the bulk lane: what both sides do on a channel, in threads.

The asker sends `want`, the answerer `coming` with the leaves' paths, then the leaves' bytes; and so
on, until either side ends the channel. An asker may send its next `want` before the bytes of the
last have come. Leaves go into one preallocated buffer, are verified there, then written: a file
mapped for receiving would let a false leaf overwrite a verified one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TypeVar

import trio
from msgspec import Struct
from msgspec.msgpack import Decoder

from primed.p2p.errors import HIGH, NoLane, RemoteError
from primed.p2p.network import BulkChannel
from primed.p2p.uploads import Uploads
from primed.protocols.framing import HEADER_BYTES, decode, encode
from primed.protocols.limits import (
    BULK_HEAD_BYTES,
    BULK_LEASE_BYTES,
    BULK_LEASE_S,
    BULK_REQUEST_BYTES,
    BULK_UNUSED_S,
    LARGE_LEAF_BYTES,
)
from primed.protocols.shardcast.messages import Coming, Proven, Want, comings, wants
from primed.protocols.shardcast.reader import leaf_size
from primed.protocols.shardcast.store import PayloadStore
from primed.verify.statements import Payload

M = TypeVar("M")


def purpose_of(run_id: bytes) -> str:
    """What a conversation about a run's payloads is called."""
    return f"shardcast/{run_id.hex()}"


# ---- the answerer


Served = Callable[[bytes, Payload, int], None]  # (peer, payload, leaf); in the answerer's thread


def answer_wants(
    store: PayloadStore, uploads: Uploads, served: Served, channel: BulkChannel
) -> None:
    """Serve one asker, until it ends, has had its share, or quiet hours begin."""
    buffer = memoryview(bytearray(LARGE_LEAF_BYTES))
    served_bytes, until = 0, time.monotonic() + BULK_LEASE_S
    while served_bytes < BULK_LEASE_BYTES and time.monotonic() < until and not uploads.quiet_s():
        want = _read(channel, wants, BULK_REQUEST_BYTES)
        if want is None:
            return
        served_bytes += _answer(store, channel, want, buffer, served)


def _answer(
    store: PayloadStore, channel: BulkChannel, want: Want, buffer: memoryview, served: Served
) -> int:
    """Bytes of leaves sent."""
    reader = store.reader(want.payload)
    if reader is None:
        _send(channel, Coming(()))
        return 0
    with reader:
        paths = ((index, reader.path(index)) for index in want.indexes)
        here = [Proven(index, tuple(path)) for index, path in paths if path is not None]
        _send(channel, Coming(tuple(here)))
        sent_bytes = 0
        for proven in here:
            leaf = reader.read_into(proven.index, buffer)
            channel.send_all(leaf)
            served(channel.peer, want.payload, proven.index)
            sent_bytes += len(leaf)
    return sent_bytes


# ---- the asker


@dataclass
class Pull:
    """Leaves asked for, and what came of it. `got(index)` is called in the trio thread for each
    leaf that is verified and stored, before `ended` is set. lacks: what the peer does not have."""

    payload: Payload
    indexes: tuple[int, ...]
    got: Callable[[int], None]
    leaves: int = 0
    lacks: tuple[int, ...] = ()
    is_bad: bool = False
    failure: Exception | None = None
    ended: trio.Event = field(default_factory=trio.Event)


class Conversation:
    """The asker's side of one channel. Made and added to in the trio thread; `talk` runs in
    another. When talk has ended the owner calls `end`."""

    def __init__(self, store: PayloadStore) -> None:
        self._store = store
        self._trio = trio.lowlevel.current_trio_token()
        self._added: SimpleQueue[Pull] = SimpleQueue()
        self._sent: deque[Pull] = deque()

    def add(self, pull: Pull) -> None:
        self._added.put(pull)

    def end(self, failure: Exception | None) -> None:
        """Tell those who still wait."""
        while not self._added.empty():
            self._sent.append(self._added.get_nowait())
        for pull in self._sent:
            pull.failure = failure or NoLane("the conversation ended")
            pull.ended.set()

    def talk(self, channel: BulkChannel) -> None:
        """Until nothing was asked for some time, or the peer ends. Raises RemoteError, and OSError
        of the disk."""
        buffer = memoryview(bytearray(LARGE_LEAF_BYTES))
        while self._has_sent(channel):
            coming = _read(channel, comings, BULK_HEAD_BYTES)
            if coming is None:
                return
            self._receive(channel, self._sent[0], coming, buffer)
            self._trio.run_sync_soon(self._sent.popleft().ended.set)

    def _has_sent(self, channel: BulkChannel) -> bool:
        """Send what was added; if nothing is under way, wait for it."""
        try:
            while True:
                pull = self._added.get_nowait() if self._sent else self._wait_for_more(channel)
                self._sent.append(pull)
                _send(channel, Want(pull.payload, pull.indexes))
        except Empty:
            return bool(self._sent)

    def _wait_for_more(self, channel: BulkChannel) -> Pull:
        """Raises Empty after BULK_UNUSED_S, or soon after the channel was cut."""
        until = time.monotonic() + BULK_UNUSED_S
        while True:
            try:
                return self._added.get(timeout=BULK_UNUSED_S / 16)
            except Empty:
                if channel.is_cut or time.monotonic() > until:
                    raise

    def _receive(
        self, channel: BulkChannel, pull: Pull, coming: Coming, buffer: memoryview
    ) -> None:
        coming_indexes = {proven.index for proven in coming.leaves}
        pull.lacks = tuple(index for index in pull.indexes if index not in coming_indexes)
        for proven in coming.leaves:
            if proven.index not in pull.indexes:
                raise RemoteError("a leaf that nobody asked for", peer=channel.peer, penalty=HIGH)
            leaf = buffer[: leaf_size(pull.payload, proven.index)]
            if not channel.recv_into(leaf):
                raise RemoteError("ended before a leaf", peer=channel.peer)
            if not self._store.write_leaf(pull.payload, proven.index, leaf, proven.path):
                pull.is_bad = True
                reason = "a leaf that is not in the payload"
                raise RemoteError(reason, peer=channel.peer, penalty=HIGH)
            pull.leaves += 1
            self._trio.run_sync_soon(pull.got, proven.index)
            self._has_sent(channel)


# ---- frames


def _send(channel: BulkChannel, message: Struct) -> None:
    body = encode(message)
    channel.send_all(len(body).to_bytes(HEADER_BYTES, "big") + body)


def _read(channel: BulkChannel, decoder: Decoder[M], cap_bytes: int) -> M | None:
    """The next message; None if the peer ended the channel instead."""
    header = bytearray(HEADER_BYTES)
    if not channel.recv_into(header):
        return None
    length = int.from_bytes(header, "big")
    if not 0 < length <= cap_bytes:
        reason = f"a frame of {length} bytes where {cap_bytes} are allowed"
        raise RemoteError(reason, peer=channel.peer, penalty=HIGH)
    body = bytearray(length)
    if not channel.recv_into(body):
        raise RemoteError("ended inside a message", peer=channel.peer)
    return decode(decoder, memoryview(body), channel.peer)
