"""One connection to a child process: a socket pair, frames of `training.messages`, an OS process.

A frame is u32 big-endian length + msgpack. The supervisor owns what happens when a link breaks;
this module only spawns, sends, receives and ends. The child inherits one socket and a minimal
environment: no PRIMED_* settings and no secrets.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec
import trio

from primed.training.messages import MESSAGE_MAX_BYTES, Reply, Request

COMMAND = (sys.executable, "-m", "primed.training.child")
OUTPUT_MAX_BYTES = 1024 * 1024
_KEPT_VARIABLES = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH")
_KEPT_PREFIXES = ("CUDA_", "NVIDIA_")
_REPLY: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


class Link(Protocol):
    """A running child, as the supervisor sees it; see ChildLink for what the methods do."""

    @property
    def pid(self) -> int: ...

    async def send(self, message: Request) -> None: ...

    async def receive(self) -> Reply: ...

    async def end(self, grace_s: float) -> int: ...

    async def exited(self, within_s: float) -> int | None: ...


Spawn = Callable[[Sequence[str], int, Path], Awaitable[Link]]  # (command, threads, log file)


class BrokenLink(Exception):
    """The child closed the connection, or sent what is not a message."""


def child_environment(threads: int) -> dict[str, str]:
    """The variables a child gets: what a GPU and the loader need, and the thread counts."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT_VARIABLES or name.startswith(_KEPT_PREFIXES)
    }
    count = str(threads)
    return kept | {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "PYTHONUNBUFFERED": "1"}


class ChildLink:
    """A running child. One task reads, one task at a time writes."""

    def __init__(self, process: subprocess.Popen[bytes], stream: trio.SocketStream) -> None:
        self.process = process
        self._stream = stream
        self._buffer = bytearray()

    @property
    def pid(self) -> int:
        return self.process.pid

    async def send(self, message: Request) -> None:
        """Raises BrokenLink. After a cancelled send the link can only be ended."""
        body = msgspec.msgpack.encode(message)
        if len(body) > MESSAGE_MAX_BYTES:
            raise BrokenLink(f"a message of {len(body)} bytes is larger than the limit")
        try:
            await self._stream.send_all(len(body).to_bytes(4, "big") + body)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise BrokenLink("the child does not read any more") from error

    async def receive(self) -> Reply:
        """The next message. Raises BrokenLink at the end of the stream and for bad bytes."""
        length = int.from_bytes(await self._read_exactly(4), "big")
        if length > MESSAGE_MAX_BYTES:
            raise BrokenLink(f"the child announced a message of {length} bytes")
        body = await self._read_exactly(length)
        try:
            return _REPLY.decode(body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise BrokenLink(f"the child sent something else than a message: {error}") from error

    async def _read_exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            try:
                data = await self._stream.receive_some(65536)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise BrokenLink("the connection to the child broke") from error
            if not data:
                raise BrokenLink("the child closed the connection")
            self._buffer += data
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    async def end(self, grace_s: float) -> int:
        """Close the socket (a child leaves by itself then), after grace_s terminate, after as long
        again kill. Returns the exit status as Popen gives it: negative for a signal."""
        with trio.CancelScope(shield=True):
            await self._stream.aclose()
            for act in (self.process.terminate, self.process.kill):
                if (status := await self.exited(grace_s)) is not None:
                    return status
                act()
            return await trio.to_thread.run_sync(self.process.wait)

    def kill(self) -> None:
        """At once, for a child that hangs. `end` still has to be awaited."""
        self.process.send_signal(signal.SIGKILL)

    async def exited(self, within_s: float) -> int | None:
        """The exit status, or None if the process still runs after within_s."""
        with trio.move_on_after(within_s):
            while self.process.poll() is None:
                await trio.sleep(0.02)
        return self.process.poll()


async def spawn(command: Sequence[str], threads: int, log_path: Path) -> ChildLink:
    """Start `command --fd N`. What it prints goes to log_path, which is moved aside at 1 MiB, so
    that a child that complains without end cannot fill the disk. Raises OSError."""
    ours, theirs = socket.socketpair()
    try:
        process = await trio.to_thread.run_sync(_start, command, theirs, threads, log_path)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return ChildLink(process, trio.SocketStream(trio.socket.from_stdlib_socket(ours)))


def _start(
    command: Sequence[str], theirs: socket.socket, threads: int, log_path: Path
) -> subprocess.Popen[bytes]:
    log_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = theirs.fileno()
    process = subprocess.Popen(
        [*command, "--fd", str(fd)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=child_environment(threads),
        pass_fds=(fd,),
        process_group=0,  # Ctrl-C in the terminal is for the daemon, which then ends its children
    )
    threading.Thread(target=_keep_output, args=(process, log_path), daemon=True).start()
    return process


def _keep_output(process: subprocess.Popen[bytes], log_path: Path) -> None:
    """Copy a child's output to its log until it ends. Runs in a thread of its own. What finds no
    room on the disk is dropped: a child whose output nobody takes would die of its next line."""
    assert process.stdout is not None
    with process.stdout as output:
        while data := os.read(output.fileno(), 65536):
            with suppress(OSError):
                _append(log_path, data)


def _append(path: Path, data: bytes) -> None:
    if path.exists() and path.stat().st_size + len(data) > OUTPUT_MAX_BYTES:
        path.replace(path.with_suffix(".old.log"))
    with path.open("ab", buffering=0) as log:
        log.write(data)
