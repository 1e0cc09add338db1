"""The child's end of its socket pair: blocking, framed, shared by the main and heartbeat threads.

A frame is u32 big-endian length + msgpack of one message (training.messages). The daemon is trusted
but may die: the end of the stream is reported as None, and a write to nobody ends the process.
"""

from __future__ import annotations

import os
import socket
import threading
import time

import msgspec

from primed.training.messages import HEARTBEAT_S, MESSAGE_MAX_BYTES, Heartbeat, Reply, Request

_REQUEST: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
PARENT_GONE = 3  # exit status


class Pipe:
    """Requests in, replies out. One reader; any thread may send."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._socket = sock
        self._input = sock.makefile("rb")
        self._lock = threading.Lock()

    def receive(self) -> Request | None:
        """The next request; None when the daemon closed. Bad bytes are our own bug: it raises."""
        header = self._input.read(4)
        if len(header) < 4:
            return None
        length = int.from_bytes(header, "big")
        if length > MESSAGE_MAX_BYTES:
            raise ValueError(f"a message of {length} bytes is larger than the limit")
        body = self._input.read(length)
        if len(body) < length:
            return None
        return _REQUEST.decode(body)

    def send(self, reply: Reply) -> None:
        """Raises OSError when the daemon is gone, ValueError for a reply over the limit."""
        body = msgspec.msgpack.encode(reply)
        if len(body) > MESSAGE_MAX_BYTES:
            raise ValueError(f"a reply of {len(body)} bytes is larger than the limit")
        with self._lock:
            self._socket.sendall(len(body).to_bytes(4, "big") + body)


class Pulse:
    """Heartbeats from a thread of its own, saying what the main thread is busy with."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._busy: tuple[str, float] = ("", 0.0)
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def begin(self, what: str) -> None:
        self._busy = (what, time.monotonic())

    def end(self) -> None:
        self._busy = ("", 0.0)

    def _beat(self) -> None:
        while True:
            what, since = self._busy
            busy_s = time.monotonic() - since if what else 0.0
            try:
                self._pipe.send(Heartbeat(busy_with=what, busy_s=busy_s))
            except OSError:
                os._exit(PARENT_GONE)  # the main thread may be deep in a computation
            time.sleep(HEARTBEAT_S)
