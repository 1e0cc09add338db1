"""A TCP proxy before a host that harms its bulk connections only; libp2p's pass untouched."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

Harm = Callable[[bytes], bytes | None]  # what becomes of a chunk towards the dialler; None: held


class BulkProxy:
    def __init__(self, port: int, peer_text: str) -> None:
        self.address = f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer_text}"
        self.harm: Harm = lambda chunk: chunk
        self.bulk_connections = 0

    async def forward(self, near: trio.SocketStream, far: trio.SocketStream) -> None:
        async with near, far, trio.open_nursery() as nursery:
            first = await near.receive_some(65536)
            is_bulk = first[:1] == b"\x16"
            self.bulk_connections += is_bulk
            await far.send_all(first)
            nursery.start_soon(self._pump, near, far, False)
            nursery.start_soon(self._pump, far, near, is_bulk)

    async def _pump(
        self, source: trio.SocketStream, sink: trio.SocketStream, is_harmed: bool
    ) -> None:
        try:
            async for chunk in source:
                passed = self.harm(bytes(chunk)) if is_harmed else bytes(chunk)
                if passed is not None:
                    await sink.send_all(passed)
            await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.aclose_forcefully(source)
            await trio.aclose_forcefully(sink)


def bit_errors(rng: random.Random, one_in_bits: float = 1e6, after_bytes: int = 0) -> Harm:
    """Flips single bits, at random places, at this rate; the first bytes pass (a handshake)."""
    left_bytes = after_bytes + rng.expovariate(8 / one_in_bits)

    def harm(chunk: bytes) -> bytes:
        nonlocal left_bytes
        data = bytearray(chunk)
        while left_bytes < len(data):
            data[int(left_bytes)] ^= 1 << rng.randrange(8)
            left_bytes += rng.expovariate(8 / one_in_bits)
        left_bytes -= len(data)
        return bytes(data)

    return harm


@asynccontextmanager
async def bulk_proxy(multiaddr: str) -> AsyncIterator[BulkProxy]:
    """In front of a listening host."""
    _, _, host, _, port, _, peer_text = multiaddr.split("/")
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    proxy = BulkProxy(listener.socket.getsockname()[1], peer_text)

    async def serve(near: trio.SocketStream) -> None:
        await proxy.forward(near, await trio.open_tcp_stream(host, int(port)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield proxy
        nursery.cancel_scope.cancel()
