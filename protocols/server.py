"""The answering side of a protocol: reads requests from streams, paces peers, writes responses.

`answer(peer, message, attachment)` returns a Reply or raises Refused; a RemoteError from it is
answered with bad_request and charged to the peer; any other exception is ours and ends the stream
at the host's border. A peer that asks too often waits (token bucket), it is not told off; and all
peers together wait for one more bucket, which all servers of a network share. A peer that reads its
answers slowly holds its own share of places.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

import trio
from msgspec import Raw, Struct
from msgspec.msgpack import Decoder

from primed.p2p.buckets import TokenBucket
from primed.p2p.errors import LOW, MID, RemoteError
from primed.p2p.network import Network, PeerId, Stream
from primed.protocols.framing import Framed, decode, encode
from primed.protocols.limits import (
    ALL_REQUESTS_BURST,
    ALL_REQUESTS_PER_S,
    ANSWERS_IN_FLIGHT,
    ANSWERS_PER_PEER,
    PEERS_TRACKED,
    REQUESTS_BURST,
    REQUESTS_PER_S,
    SMALL_ANSWER_BYTES,
    STREAM_IDLE_S,
    STREAMS_PER_PEER,
)
from primed.protocols.rpc import (
    NO_BODY,
    Attachment,
    Refused,
    RequestHead,
    ResponseHead,
    refuse_unless_soon,
    request_heads,
    send_file,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Reply:
    """An ok answer: its message and, if any, the file (and how much of it) to attach. is_owed: quiet
    hours do not hold the file up."""

    message: Struct
    attach: tuple[Path, int] | None = None
    is_owed: bool = False


Answer = Callable[[PeerId, T, Attachment], Awaitable[Reply]]


class _Everybody:
    """What all peers and protocols together may take. When it is used up, peers take turns: one
    request of each stands in line, so that who asks little waits for no peer's many."""

    def __init__(self) -> None:
        self._bucket = TokenBucket(ALL_REQUESTS_BURST, ALL_REQUESTS_PER_S, trio.current_time())
        self._line = trio.StrictFIFOLock()
        self._own_lines: dict[PeerId, trio.StrictFIFOLock] = {}

    async def take(self, peer: PeerId, cost: float) -> None:
        if not self._line.locked() and self._bucket.take(trio.current_time(), cost):
            return
        own = self._own_lines.setdefault(peer, trio.StrictFIFOLock())
        try:
            async with own, self._line:
                if delay := self._bucket.delay(trio.current_time(), cost):
                    await trio.sleep(delay)
        finally:
            if not own.locked():
                self._own_lines.pop(peer, None)


_everybody: WeakKeyDictionary[Network, _Everybody] = WeakKeyDictionary()


class Server(Generic[T]):
    """Serves one protocol as soon as it is made. `requests` decodes its request messages."""

    def __init__(
        self,
        network: Network,
        protocol: str,
        requests: Decoder[T],
        answer: Answer[T],
        *,
        frame_max_bytes: int = 64 * 1024,
        attachment_max_bytes: int = 0,
        burst: float = REQUESTS_BURST,
        per_s: float = REQUESTS_PER_S,
    ) -> None:
        self._network = network
        self._requests = requests
        self._answer = answer
        self._frame_max_bytes = frame_max_bytes
        self._attachment_max_bytes = attachment_max_bytes
        self._burst, self._per_s = burst, per_s
        self._streams: Counter[PeerId] = Counter()
        self._shares: dict[PeerId, trio.CapacityLimiter] = {}  # of peers with streams
        self._buckets: OrderedDict[PeerId, TokenBucket] = OrderedDict()
        self._in_flight = trio.CapacityLimiter(ANSWERS_IN_FLIGHT)
        network.handle(protocol, self._serve)

    async def _serve(self, stream: Stream) -> None:
        frames, peer = Framed(stream), stream.peer
        if self._streams[peer] >= STREAMS_PER_PEER:
            await frames.reset()
            self._network.penalise(peer, LOW, "too many streams of one protocol")
            return
        self._streams[peer] += 1
        self._shares.setdefault(peer, trio.CapacityLimiter(ANSWERS_PER_PEER))
        try:
            while data := await frames.read(self._frame_max_bytes, first_byte_s=STREAM_IDLE_S):
                await self._pace(peer)
                if not await self._respond(frames, data):
                    break
            await frames.close()
        except RemoteError as error:
            await frames.reset()
            self._charge(peer, error)
        finally:
            self._streams[peer] -= 1
            if not self._streams[peer]:
                del self._streams[peer], self._shares[peer]

    async def _respond(self, frames: Framed, data: bytes) -> bool:
        """Answer one request; whether the stream is still in step for the next."""
        head = decode(request_heads, data, frames.peer)
        if head.attached_bytes > self._attachment_max_bytes:
            raise RemoteError("attachment too large", peer=frames.peer, penalty=MID)
        attachment = Attachment(frames, head.attached_bytes)
        message = decode(self._requests, head.body, frames.peer)
        async with self._shares[frames.peer]:
            async with self._in_flight:
                response, attach = await self._answered(frames.peer, head, message, attachment)
                data = encode(response)
                if len(data) > SMALL_ANSWER_BYTES:  # places bound the memory of slow readers
                    await frames.write(data)
            if len(data) <= SMALL_ANSWER_BYTES:
                await frames.write(data)
            if attach is not None:
                await send_file(frames, *attach, self._network.uploads)
        return attachment.remaining_bytes == 0

    async def _answered(
        self, peer: PeerId, head: RequestHead, message: T, attachment: Attachment
    ) -> tuple[ResponseHead, tuple[Path, int] | None]:
        try:
            reply = await self._answer(peer, message, attachment)
            if reply.attach:
                uploads, size_bytes = self._network.uploads, reply.attach[1]
                refuse_unless_soon(uploads, size_bytes, is_owed=reply.is_owed)
        except Refused as refusal:
            detail, retry_ms = refusal.detail[:200], refusal.retry_after_ms
            return ResponseHead(head.id, refusal.code, retry_ms, detail, 0, NO_BODY), None
        except RemoteError as error:
            self._charge(peer, error)
            return ResponseHead(head.id, "bad_request", 0, error.reason[:200], 0, NO_BODY), None
        size_bytes = reply.attach[1] if reply.attach else 0
        body = Raw(encode(reply.message))
        return ResponseHead(head.id, "ok", 0, "", size_bytes, body), reply.attach

    async def _pace(self, peer: PeerId) -> None:
        bucket = self._buckets.pop(peer, None)
        if bucket is None:
            bucket = TokenBucket(self._burst, self._per_s, trio.current_time())
        self._buckets[peer] = bucket
        if len(self._buckets) > PEERS_TRACKED:
            self._buckets.popitem(last=False)
        if delay := bucket.delay(trio.current_time()):
            await trio.sleep(delay)
        everybody = _everybody.get(self._network)
        if everybody is None:
            everybody = _everybody[self._network] = _Everybody()
        await everybody.take(peer, REQUESTS_PER_S / self._per_s)

    def _charge(self, peer: PeerId, error: RemoteError) -> None:
        if error.penalty:
            self._network.penalise(peer, error.penalty, error.reason)
