"""A TCP proxy that is at fault: it slices, corrupts or swallows what passes through it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import trio

Fault = Callable[[bytes], Iterable[bytes]]  # what becomes of a chunk, in order


def untouched(chunk: bytes) -> Iterable[bytes]:
    return (chunk,)


def sliced(chunk: bytes) -> Iterable[bytes]:
    return (chunk[i : i + 1] for i in range(len(chunk)))


class Proxy:
    """Forwards to one address. `fault` may be replaced at any time; `is_open` False swallows all
    bytes and keeps the sockets, as a cable does that was pulled."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.fault: Fault = untouched
        self.is_open = True
        self.lump_s = 0.0  # what comes within so long goes on at once

    def address(self, real: str) -> str:
        """The multiaddr of what is behind, by way of the proxy."""
        return f"/ip4/127.0.0.1/tcp/{self.port}/p2p/{real.rpartition('/p2p/')[2]}"

    async def pump(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        try:
            async for chunk in source:
                if self.is_open:
                    chunk = bytes(chunk) + await self._lump(source)
                    for part in self.fault(chunk):
                        await sink.send_all(part)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        if self.is_open:
            await trio.aclose_forcefully(sink)
            await trio.aclose_forcefully(source)

    async def _lump(self, source: trio.SocketStream) -> bytes:
        lump = b""
        with trio.move_on_after(self.lump_s) as patience:
            while patience.deadline > trio.current_time() and (more := await source.receive_some()):
                lump += more
        return lump


@asynccontextmanager
async def proxy_to(multiaddr: str) -> AsyncIterator[Proxy]:
    _, _, host, _, port, *_ = multiaddr.split("/")
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    proxy = Proxy(listener.socket.getsockname()[1])

    async def forward(near: trio.SocketStream) -> None:
        far = await trio.open_tcp_stream(host, int(port))
        for stream in (near, far):
            stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with near, far, trio.open_nursery() as nursery:
            nursery.start_soon(proxy.pump, near, far)
            nursery.start_soon(proxy.pump, far, near)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, forward, [listener])
        yield proxy
        nursery.cancel_scope.cancel()
