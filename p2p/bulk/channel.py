"""TlsChannel: a TLS connection for a thread, whose every call ends in time.

A trio task owns the channel and runs functions on it by `in_thread`; when the task is cancelled the
socket is cut, which makes the thread's call fail at once. Nothing else may touch it meanwhile:
OpenSSL allows one thread at a time.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import trio

from primed.p2p import limits
from primed.p2p.bulk.certificate import peer_of
from primed.p2p.errors import LOW, RemoteError
from primed.p2p.uploads import Uploads

T = TypeVar("T")


class TlsChannel:
    """See `primed.p2p.network.BulkChannel`. `count(received, sent)` is told the bytes."""

    def __init__(
        self, sock: socket.socket, uploads: Uploads, count: Callable[[int, int], None]
    ) -> None:
        self.peer = b""
        self._socket = sock
        self._uploads = uploads
        self._count = count
        self._cut = threading.Event()

    # ---- in the thread

    @property
    def is_cut(self) -> bool:
        return self._cut.is_set()

    def handshake(self, context: ssl.SSLContext, *, server_side: bool) -> None:
        """TLS, after which `peer` is who proved to be there. Raises RemoteError."""
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.settimeout(limits.BULK_HANDSHAKE_S)  # for the whole handshake
            tls = context.wrap_socket(
                self._socket, server_side=server_side, do_handshake_on_connect=False
            )
            self._socket = tls
            if self.is_cut:
                raise OSError("cut")
            tls.do_handshake()
            self.peer = peer_of(tls)
        except (OSError, ValueError) as error:
            raise RemoteError(f"no TLS: {_words(error)}") from error

    def send_all(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data).cast("B")
        spent_s = 0.0
        for start in range(0, len(view), limits.BULK_SEND_BYTES):
            piece = view[start : start + limits.BULK_SEND_BYTES]
            if len(view) > limits.BULK_FREE_BYTES:
                self._wait_for_allowance(len(piece))
            began = time.monotonic()
            self._send(piece)
            spent_s += time.monotonic() - began
            if spent_s > _time_for(start + len(piece)):
                raise self._fault("takes bytes too slowly", LOW)

    def recv_into(
        self, buffer: bytearray | memoryview, *, first_byte_s: float | None = None
    ) -> bool:
        view = memoryview(buffer).cast("B")
        got = self._recv(view, limits.BULK_IDLE_S if first_byte_s is None else first_byte_s)
        if not got:
            return False
        by = time.monotonic() + _time_for(len(view))
        while got < len(view):
            count = self._recv(view[got:], limits.BULK_IDLE_S)
            if not count:
                # Whoever is stopped while it serves ends so; the lane pauses for those that always do.
                raise self._fault("ended inside a message", 0)
            got += count
            if time.monotonic() > by:
                raise self._fault("sends too slowly", LOW)
        self._count(got, 0)
        return True

    def _recv(self, view: memoryview, within_s: float) -> int:
        try:
            if self._socket.gettimeout() != within_s:
                self._socket.settimeout(within_s)
            return self._socket.recv_into(view)
        except (OSError, ValueError) as error:
            raise self._lost(error, f"no byte in {within_s:.0f} s") from error

    def _send(self, piece: memoryview) -> None:
        try:
            if self._socket.gettimeout() != limits.BULK_IDLE_S:
                self._socket.settimeout(limits.BULK_IDLE_S)
            self._socket.sendall(piece)
        except (OSError, ValueError) as error:
            raise self._lost(error, "takes no bytes") from error
        self._count(0, len(piece))

    def _wait_for_allowance(self, count: int) -> None:
        if (delay_s := self._uploads.reserve(count)) and self._cut.wait(delay_s):
            raise self._fault("the channel was cut", 0)

    def _lost(self, error: Exception, when_late: str) -> RemoteError:
        if self.is_cut:
            return self._fault("the channel was cut", 0)
        if isinstance(error, TimeoutError):
            return self._fault(when_late, 0)
        return self._fault(f"bulk channel lost: {_words(error)}", 0)

    def _fault(self, reason: str, penalty: int) -> RemoteError:
        return RemoteError(reason, peer=self.peer, penalty=penalty)

    # ---- for the task

    async def in_thread(self, work: Callable[[TlsChannel], T], limiter: trio.CapacityLimiter) -> T:
        """The result of work(self); its thread has ended when this returns or raises."""
        outcome: list[T] = []
        failure: list[Exception] = []

        def run() -> None:
            try:
                outcome.append(work(self))
            except Exception as error:  # noqa: BLE001  raised again below, in the task
                failure.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cut_when_cancelled, nursery.cancel_scope)
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(run, limiter=limiter)
            nursery.cancel_scope.cancel()
        if failure:
            raise failure[0]
        return outcome[0]

    async def _cut_when_cancelled(self, ours: trio.CancelScope) -> None:
        try:
            await trio.sleep_forever()
        finally:
            if not ours.cancel_called:
                self.cut()

    def cut(self) -> None:
        """End both directions at once, from any thread; never raises."""
        self._cut.set()
        with suppress(OSError, ValueError):
            # Not SSLSocket.shutdown: it would make the thread's next write a plaintext one.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def linger(self) -> None:
        """End our direction and wait a moment for the peer's end: closing over unread bytes would
        reset the connection, and with it what we sent last. In the thread; never raises."""
        rest = bytearray(64 * 1024)
        by = time.monotonic() + limits.BULK_LINGER_S
        with suppress(OSError, ValueError):
            socket.socket.shutdown(self._socket, socket.SHUT_WR)
            self._socket.settimeout(limits.BULK_LINGER_S)
            while time.monotonic() < by and socket.socket.recv_into(self._socket, rest):
                pass

    def close(self) -> None:
        """Give the socket back; never raises, no thread may be using it."""
        self._cut.set()
        with suppress(OSError):
            self._socket.close()


def _time_for(size_bytes: int) -> float:
    """Seconds within which a message of this size must have passed."""
    return limits.BULK_IDLE_S + size_bytes / limits.BULK_MIN_BYTES_PER_S


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "not in time"
    return str(error.args[-1] if error.args else error)[:160]
