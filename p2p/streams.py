"""`Stream` over a libp2p stream: bounded reads, whole writes, errors that name the peer.

The library's resets and lost connections look like an orderly end to a reader; here they raise.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import trio
from libp2p.abc import INetStream
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.network.stream.net_stream import NetStream
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream

from primed.p2p import limits
from primed.p2p.errors import RemoteError
from primed.p2p.network import Traffic

# What the library raises when a stream or its connection ends: its own errors, trio's for a
# socket closed under a reader, and KeyError from Yamux's tables while a connection is closed.
STREAM_ERRORS = (
    BaseLibp2pError,
    OSError,
    EOFError,
    KeyError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
)


class Libp2pStream:
    """See `primed.p2p.network.Stream`. A cancelled write resets this stream only."""

    def __init__(self, stream: INetStream, peer: bytes, traffic: Traffic) -> None:
        self._stream = stream
        self._peer = peer
        self._traffic = traffic

    @property
    def peer(self) -> bytes:
        return self._peer

    async def read_some(self, max_bytes: int) -> bytes:
        try:
            data = await self._stream.read(max_bytes)
        except StreamEOF:
            if was_cut(self._stream):
                raise RemoteError("stream was cut", peer=self._peer) from None
            return b""
        except STREAM_ERRORS as error:
            raise RemoteError(f"stream lost: {root_cause(error)}", peer=self._peer) from error
        self._traffic.stream_received_bytes += len(data)
        return data

    async def write_all(self, data: bytes) -> None:
        view = memoryview(data)
        finished = False
        try:
            for start in range(0, len(view), limits.WRITE_BYTES):
                chunk = bytes(view[start : start + limits.WRITE_BYTES])
                await self._stream.write(chunk)
                self._traffic.stream_sent_bytes += len(chunk)
            finished = True
        except STREAM_ERRORS as error:
            raise RemoteError(f"stream lost: {root_cause(error)}", peer=self._peer) from error
        finally:
            if not finished:  # the other side would take the next message for the rest of this
                await self.reset()

    async def close(self) -> None:
        await _finish(self._stream.close)

    async def reset(self) -> None:
        await _finish(self._stream.reset)


async def reset_quietly(stream: INetStream) -> None:
    """Reset, whatever state the stream is in; also while being cancelled."""
    await _finish(stream.reset)


def was_cut(stream: INetStream) -> bool:
    """Whether a stream that ended was reset, or lost with its connection."""
    muxed = stream.muxed_stream if isinstance(stream, NetStream) else None
    if not isinstance(muxed, YamuxStream):
        return False
    connection = muxed.conn
    lost = isinstance(connection, Yamux) and connection.event_shutting_down.is_set()
    return lost or muxed.reset_received


async def _finish(action: Callable[[], Awaitable[None]]) -> None:
    with trio.move_on_after(limits.WRITE_STALL_S) as scope:
        scope.shield = True
        try:
            await action()
        except STREAM_ERRORS:
            pass


def root_cause(error: BaseException) -> str:
    """The innermost message: the library wraps `connection refused` four times."""
    while True:
        inner = error.__cause__ or error.__context__
        if isinstance(error, BaseExceptionGroup):
            inner = error.exceptions[0]
        if inner is not None:
            error = inner
        elif isinstance(error, OSError) and error.errno:
            return os.strerror(error.errno)  # without what is said around it
        else:
            return str(error) or type(error).__name__
