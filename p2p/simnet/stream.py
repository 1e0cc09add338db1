"""A stream over a simulated connection: see `primed.p2p.network.Stream` for what it promises."""

from __future__ import annotations

from functools import partial
from itertools import count

import trio

from primed.p2p import limits
from primed.p2p.errors import RemoteError
from primed.p2p.network import Traffic
from primed.p2p.simnet.connection import Connection

_numbers = count()  # only ever compared for equality


class SimStream:
    """One end. `scope`: cancelled when the connection is lost, for the task that serves it."""

    def __init__(self, connection: Connection, own: bytes, traffic: Traffic) -> None:
        self.scope = trio.CancelScope()
        self._connection = connection
        self._own = own
        self._peer = connection.other(own)
        self._traffic = traffic
        self._far: SimStream | None = None
        self._is_spoken: bool | None = None
        self._arrived = bytearray()
        self._is_ended = False  # the other end will write no more
        self._is_closed = False
        self._failure = ""
        self._in_flight_bytes = 0  # written and not read at the other end
        self._changed = trio.Event()
        self._number = next(_numbers)
        connection.streams[own][self._number] = self

    def join(self, far: SimStream) -> None:
        self._far, far._far = far, self

    async def accepted(self) -> bool:
        """Whether the other end speaks the protocol. Raises RemoteError if that stays unknown."""
        while self._is_spoken is None:
            if self._failure:
                raise RemoteError(self._failure, peer=self._peer)
            await self._changed.wait()
        return self._is_spoken

    def told(self, is_spoken: bool) -> None:
        """The answer of the other end."""
        self._is_spoken = is_spoken
        if is_spoken:
            self._wake()
        else:
            self.fail("not spoken there")

    @property
    def peer(self) -> bytes:
        return self._peer

    async def read_some(self, max_bytes: int) -> bytes:
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._arrived:
            if self._failure:
                raise RemoteError(f"stream lost: {self._failure}", peer=self._peer)
            if self._is_ended:
                return b""
            await self._changed.wait()
        data = bytes(memoryview(self._arrived)[:max_bytes])
        del self._arrived[:max_bytes]
        self._traffic.stream_received_bytes += len(data)
        if self._far is not None:
            self._far._in_flight_bytes -= len(data)
            self._far._wake()
        return data

    async def write_all(self, data: bytes) -> None:
        finished = False
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            for start in range(0, len(data), limits.WRITE_BYTES):
                await self._write(data[start : start + limits.WRITE_BYTES])
            finished = True
        finally:
            if not finished:
                await self.reset()

    async def _write(self, chunk: bytes) -> None:
        while self._in_flight_bytes > limits.RECEIVE_WINDOW_BYTES and not self._failure:
            await self._changed.wait()
        if self._failure or self._is_closed or self._far is None:
            raise RemoteError(f"stream lost: {self._failure or 'closed'}", peer=self._peer)
        self._in_flight_bytes += len(chunk)
        self._traffic.stream_sent_bytes += len(chunk)
        self._connection.send(self._own, len(chunk), partial(self._far._take, chunk))

    async def close(self) -> None:
        if not self._is_closed and self._far is not None:
            self._is_closed = True
            self._connection.send(self._own, 0, self._far._end)
            self._forget_if_over()

    async def reset(self) -> None:
        if not self._failure:
            self._connection.send(self._own, 0, self._fail_far)
            self.fail("reset")

    def _fail_far(self) -> None:
        if self._far is not None:  # accepted there, maybe while the reset was on its way
            self._far.fail("reset by the peer")

    def fail(self, reason: str) -> None:
        self._failure = self._failure or reason
        self._arrived.clear()
        self._connection.streams[self._own].pop(self._number, None)
        self._wake()
        if reason == "connection lost":
            self.scope.cancel()

    def _take(self, chunk: bytes) -> None:
        if not self._failure:
            self._arrived += chunk
            self._wake()

    def _end(self) -> None:
        self._is_ended = True
        self._wake()
        self._forget_if_over()

    def _forget_if_over(self) -> None:
        if self._is_ended and self._is_closed:
            self._connection.streams[self._own].pop(self._number, None)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
