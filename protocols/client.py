"""The asking side of a protocol: a small pool of long-lived streams to each peer.

Each stream carries one request at a time, so no task runs behind the caller's back and a response
needs no dispatching. A stream that fails is dropped; if it had been idle (the peer may have
restarted meanwhile) the request is repeated once on a fresh one, hence requests are idempotent.
We never ask faster than the other side allows: we keep the same bucket as it does, a little slower.
Peers' faults are charged here before the error reaches the caller. All that a request waits for is
told to the network's named waits. The runs of a daemon share one client a protocol (`by_run`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Generic, TypeVar

import trio
from msgspec import Raw, Struct
from msgspec.msgpack import Decoder

from primed.p2p import peerid
from primed.p2p.buckets import TokenBucket
from primed.p2p.errors import MID, RemoteError
from primed.p2p.limits import OPEN_STREAM_S
from primed.p2p.network import Network, PeerId
from primed.protocols.framing import Framed, decode, encode, time_for
from primed.protocols.limits import (
    CLIENT_STREAM_S,
    CLIENT_STREAMS_PER_PEER,
    DATA_FRAME_BYTES,
    FRAME_MAX_BYTES,
    IDLE_S,
    MIN_BYTES_PER_S,
    PEERS_TRACKED,
    REQUESTS_BURST,
    REQUESTS_PER_S,
)
from primed.protocols.rpc import (
    Attachment,
    Refused,
    RequestHead,
    ResponseHead,
    response_heads,
    send_file,
)

T = TypeVar("T")
Receive = Callable[[Attachment], Awaitable[None]]
_SLOWER = 0.9  # our clock and the other's do not run alike


class _StaleStream(RemoteError):
    """A pooled stream failed before the response began: worth one more try."""


class Client(Generic[T]):
    """Requests of one protocol to any peer. `responses` decodes the protocol's response
    messages."""

    def __init__(
        self,
        network: Network,
        protocol: str,
        responses: Decoder[T],
        *,
        frame_max_bytes: int = FRAME_MAX_BYTES,
        burst: float = REQUESTS_BURST,
        per_s: float = REQUESTS_PER_S,
    ) -> None:
        self._network = network
        self._protocol = protocol
        self._responses = responses
        self._frame_max_bytes = frame_max_bytes
        self._idle: dict[PeerId, list[Framed]] = {}
        self._burst, self._per_s = burst, per_s * _SLOWER
        self._buckets: OrderedDict[PeerId, TokenBucket] = OrderedDict()  # also across reconnects
        self._slots: dict[PeerId, trio.CapacityLimiter] = {}
        self._next_id = 0
        network.on_peer(self._forget_on_disconnect)

    async def request(
        self,
        peer: PeerId,
        message: Struct,
        *,
        attach: tuple[Path, int] | None = None,
        receive: Receive | None = None,
        receive_max_bytes: int = 0,
        wait_s: float = IDLE_S,
    ) -> T:
        """Ask and return the response's body.

        attach: a file and its size to send along. receive: called with the response's attachment,
        which must be of at most receive_max_bytes and be read to its end. wait_s: until the
        response begins. Raises Refused for codes other than ok, RemoteError for every other
        failure; both name the peer.
        """
        if len(encode(message)) > self._frame_max_bytes:
            raise ValueError(f"request of more than {self._frame_max_bytes} bytes")
        slots = await self._slot(peer)
        try:
            return await self._ask(peer, _Call(message, attach, receive, receive_max_bytes, wait_s))
        except RemoteError as error:
            if error.penalty:
                self._network.penalise(peer, error.penalty, error.reason)
            raise
        finally:
            slots.release()

    async def _slot(self, peer: PeerId) -> trio.CapacityLimiter:
        """One of our streams to the peer, taken; the caller releases it."""
        slots = self._slots.setdefault(peer, trio.CapacityLimiter(CLIENT_STREAMS_PER_PEER))
        if slots.available_tokens:
            await slots.acquire()  # at once
            return slots
        with self._waiting("one of our streams", peer, CLIENT_STREAM_S):
            with trio.move_on_after(CLIENT_STREAM_S):
                await slots.acquire()
                return slots
        reason = f"our streams to it were busy with other requests for {CLIENT_STREAM_S:.0f} s"
        raise RemoteError(reason, peer=peer)

    def _waiting(self, what: str, peer: PeerId, within_s: float) -> AbstractContextManager[None]:
        name = f"{what}, {self._protocol}"
        return self._network.waits.named(name, lambda: f"peer {peerid.short(peer)}", within_s)

    async def _ask(self, peer: PeerId, call: _Call) -> T:
        while idle := self._idle.get(peer):
            try:
                return await self._exchange(idle.pop(), call, reused=True)
            except _StaleStream:
                continue
        with self._waiting("a stream", peer, OPEN_STREAM_S):
            frames = Framed(await self._network.open_stream(peer, self._protocol))
        return await self._exchange(frames, call, reused=False)

    async def _exchange(self, frames: Framed, call: _Call, *, reused: bool) -> T:
        try:
            with self._waiting("an answer", frames.peer, call.within_s(self._frame_max_bytes)):
                await self._pace(frames.peer)
                head, body = await self._round_trip(frames, call, reused)
        except BaseException:
            await frames.reset()
            raise
        self._idle.setdefault(frames.peer, []).append(frames)
        if head.code != "ok":
            raise Refused(
                head.code, head.detail, retry_after_ms=head.retry_after_ms, peer=frames.peer
            )
        assert body is not None
        return body

    async def _pace(self, peer: PeerId) -> None:
        now_s = trio.current_time()
        bucket = self._buckets.pop(peer, None) or TokenBucket(self._burst, self._per_s, now_s)
        self._buckets[peer] = bucket
        if len(self._buckets) > PEERS_TRACKED:
            self._buckets.popitem(last=False)
        if delay_s := bucket.delay(now_s):
            await trio.sleep(delay_s)

    async def _round_trip(
        self, frames: Framed, call: _Call, reused: bool
    ) -> tuple[ResponseHead, T | None]:
        self._next_id = (self._next_id + 1) % 2**32
        request_id = self._next_id
        data = await self._first_frame(frames, call, request_id, reused)
        head = decode(response_heads, data, frames.peer)
        if head.id != request_id:
            raise RemoteError("answered another request", peer=frames.peer, penalty=MID)
        if head.code != "ok":
            if head.attached_bytes:
                raise RemoteError("attachment to a refusal", peer=frames.peer, penalty=MID)
            return head, None
        body = decode(self._responses, head.body, frames.peer)
        await self._receive(frames, head, call)
        return head, body

    async def _first_frame(
        self, frames: Framed, call: _Call, request_id: int, reused: bool
    ) -> bytes:
        size_bytes = call.attach[1] if call.attach else 0
        try:
            await frames.write(
                encode(RequestHead(request_id, size_bytes, Raw(encode(call.message))))
            )
            if call.attach:
                await send_file(frames, *call.attach, self._network.uploads)
            data = await frames.read(self._frame_max_bytes, first_byte_s=call.wait_s)
        except RemoteError as error:
            if reused and not error.penalty:
                raise _StaleStream(error.reason, peer=frames.peer) from error
            raise
        if not data:
            kind = _StaleStream if reused else RemoteError
            raise kind("closed the stream without an answer", peer=frames.peer)
        return data

    async def _receive(self, frames: Framed, head: ResponseHead, call: _Call) -> None:
        if head.attached_bytes > call.receive_max_bytes or (
            head.attached_bytes and call.receive is None
        ):
            raise RemoteError("attachment larger than asked", peer=frames.peer, penalty=MID)
        if call.receive is not None:
            attachment = Attachment(frames, head.attached_bytes)
            await call.receive(attachment)
            if attachment.remaining_bytes:
                raise RemoteError("attachment was not read", peer=frames.peer)

    def _forget_on_disconnect(self, peer: PeerId, connected: bool) -> None:
        if not connected:
            self._idle.pop(peer, None)
            slots = self._slots.get(peer)
            if slots is not None and not slots.borrowed_tokens:
                del self._slots[peer]


class _Call:
    """What one request needs, independent of the stream it travels on."""

    def __init__(
        self,
        message: Struct,
        attach: tuple[Path, int] | None,
        receive: Receive | None,
        receive_max_bytes: int,
        wait_s: float,
    ) -> None:
        self.message = message
        self.attach = attach
        self.receive = receive
        self.receive_max_bytes = receive_max_bytes
        self.wait_s = wait_s

    def within_s(self, frame_max_bytes: int) -> float:
        """By when it ends on one stream, at the pace of the slowest peer."""
        sent_frames = -(-self.attach[1] // DATA_FRAME_BYTES) if self.attach else 0
        received_s = time_for(frame_max_bytes) + self.receive_max_bytes / MIN_BYTES_PER_S
        return IDLE_S + sent_frames * time_for(DATA_FRAME_BYTES) + self.wait_s + received_s
