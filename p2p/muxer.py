"""Yamux with the holes closed that a peer, or a mere cancellation, could use.

- A frame is written whole or the connection ends: cancelling between two bytes of a Noise record
  would corrupt everything after it, whoever wrote (gossip, DHT queries under a deadline, ours).
- A peer that takes no bytes, or answers no ping and sends nothing, is dropped: a stopped process
  keeps its sockets open for ever otherwise.
- Unread bytes of a connection are bounded, also for a peer that ignores flow control.
- Frames are read so many a second: handling an empty one costs us far more than it costs a peer.
- A window is never larger than the greatest frame that is taken: js-libp2p fills it with one frame.
- A line of the protocol negotiation has a greatest length; the library reads any that is named.
"""

from __future__ import annotations

import struct
from typing import Any, cast

import trio
from libp2p.abc import ISecureConn
from libp2p.custom_types import TMuxerOptions, TProtocol
from libp2p.exceptions import BaseLibp2pError, ParseError
from libp2p.io.abc import Reader
from libp2p.network.connection.exceptions import RawConnError
from libp2p.peer.id import ID
from libp2p.protocol_muxer import multiselect_communicator
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux import yamux
from libp2p.utils.varint import read_varint_prefixed_bytes_limited

from primed.p2p import limits
from primed.p2p.buckets import TokenBucket

# The library lets each stream's window grow to 16 MiB; it reads this name at every use.
yamux.MAX_WINDOW_SIZE = limits.RECEIVE_WINDOW_BYTES
_YIELD_FRAMES = 64  # of frames that have all arrived, then others have a turn


async def read_line(reader: Reader) -> bytes:
    """A line of multistream-select without its end. Raises ParseError or the reader's errors."""
    line = await read_varint_prefixed_bytes_limited(reader, limits.NEGOTIATION_LINE_BYTES)
    if line[-1:] != b"\n" or not line.isascii():
        raise ParseError("not a line of multistream-select")
    return line[:-1]


vars(multiselect_communicator)["read_delim"] = read_line


class FloodError(trio.TooSlowError):
    """More unread bytes than allowed. A TooSlowError, since that is what ends a connection."""


class BoundedStream(yamux.YamuxStream):
    """A stream that grants no more than RECEIVE_WINDOW_BYTES.

    The library grants beyond its greatest window what it read last, then takes a frame of that size
    for an attack and closes the connection.
    """

    async def send_window_update(self, increment: int, skip_lock: bool = False) -> None:
        buffered = len(self.conn.stream_buffers.get(self.stream_id, b""))
        excess = max(0, self.recv_window + buffered - limits.RECEIVE_WINDOW_BYTES)
        excess = min(excess, increment)
        self.recv_window -= excess
        await super().send_window_update(increment - excess, skip_lock)


vars(yamux)["YamuxStream"] = BoundedStream  # the library makes all streams by this name


class BoundedYamux(yamux.Yamux):
    """The muxer of every connection."""

    _frames_heard = 0

    def __init__(self, conn: ISecureConn, peer_id: ID) -> None:
        super().__init__(cast(ISecureConn, _Paced(conn)), peer_id)

    async def _write_frame(self, data: bytes) -> None:
        async with self._write_lock:
            with trio.move_on_after(limits.WRITE_STALL_S) as patience:
                patience.shield = True
                await self.secured_conn.write(data)
            if patience.cancelled_caught:
                await self.hang_up()
                raise RawConnError("connection closed: the peer takes no data")
        await trio.lowlevel.checkpoint()

    async def _read_data_body(self, length: int) -> bytes:
        body = await super()._read_data_body(length)
        self._frames_heard += 1
        unread = sum(map(len, self.stream_buffers.values()))
        if unread + length > limits.CONNECTION_BUFFER_BYTES:
            raise FloodError(f"{unread + length} unread bytes")
        return body

    async def _measure_rtt_loop(self) -> None:
        """Ping for ever; hang up on silence. Runs in the nursery of the connection."""
        while not self.event_shutting_down.is_set():
            with trio.move_on_after(limits.PING_INTERVAL_S):
                await self.event_shutting_down.wait()
                return
            heard = self._frames_heard
            if not await self._ping() and self._frames_heard == heard:
                await self.hang_up()
                return

    async def _ping(self) -> bool:
        """Whether the peer answers in time."""
        self._ping_id = (self._ping_id + 1) % 2**32
        self._ping_event = trio.Event()
        header = struct.pack(
            yamux.YAMUX_HEADER_FORMAT, 0, yamux.TYPE_PING, yamux.FLAG_SYN, 0, self._ping_id
        )
        self._ping_sent_time = trio.current_time()
        try:
            with trio.move_on_after(limits.PING_TIMEOUT_S):
                await self._write_frame(header)
                await self._ping_event.wait()
                return True
        except BaseLibp2pError:
            pass
        return False

    async def hang_up(self) -> None:
        """Close the socket; the reading loop notices and cleans up."""
        with trio.move_on_after(1.0) as scope:
            scope.shield = True
            await self.secured_conn.close()


class _Paced:
    """A secured connection on which the next frame header is read when its turn has come."""

    def __init__(self, conn: ISecureConn) -> None:
        self._conn = conn
        self._bucket = TokenBucket(limits.FRAMES_BURST, limits.FRAMES_PER_S, trio.current_time())
        self._frames = 0

    async def read(self, n: int | None = None) -> bytes:
        if n == yamux.HEADER_SIZE:
            self._frames += 1
            if wait_s := self._bucket.delay(trio.current_time()):
                await trio.sleep(wait_s)
            elif self._frames % _YIELD_FRAMES == 0:
                await trio.lowlevel.checkpoint()
        return await self._conn.read(n)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conn, name)


class BoundedMuxers(MuxerMultistream):
    """Negotiates Yamux and makes ours; the library would make its own whatever it is told."""

    def __init__(self) -> None:
        options: TMuxerOptions = {TProtocol(yamux.PROTOCOL_ID): BoundedYamux}
        super().__init__(options, limits.NEGOTIATE_S)

    async def new_conn(self, conn: ISecureConn, peer_id: ID) -> BoundedYamux:
        protocol, _ = await self._selector.select(conn, conn.is_initiator, self.negotiate_timeout)
        muxed = BoundedYamux(conn, peer_id)
        self._annotate_connection(muxed, conn, protocol)
        return muxed
