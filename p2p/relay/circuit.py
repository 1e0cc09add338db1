"""A circuit: the stream to a relay as the library wants a raw connection, and how a relay copies it."""

from __future__ import annotations

import trio
from libp2p.abc import INetStream, IRawConnection
from libp2p.connection_types import ConnectionType
from libp2p.io.exceptions import IOException
from libp2p.network.stream.exceptions import StreamEOF
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from primed.p2p import limits
from primed.p2p.buckets import TokenBucket
from primed.p2p.sockets import LONGEST_READ_BYTES
from primed.p2p.streams import STREAM_ERRORS, reset_quietly


class CircuitConnection(IRawConnection):
    """`read(n)` returns n bytes, and fewer only at the end."""

    def __init__(self, stream: INetStream, *, is_initiator: bool) -> None:
        self.is_initiator = is_initiator
        self._stream = stream

    async def read(self, n: int | None = None) -> bytes:
        if n is None or n > LONGEST_READ_BYTES:
            raise IOException(f"{n} bytes at a time are refused")
        data = bytearray()
        try:
            while len(data) < n:
                data += await self._stream.read(n - len(data))
        except StreamEOF:
            pass
        except STREAM_ERRORS as error:
            raise IOException(f"circuit lost: {error}") from error
        return bytes(data)

    async def write(self, data: bytes) -> None:
        try:
            await self._stream.write(data)
        except STREAM_ERRORS as error:
            raise IOException(f"circuit lost: {error}") from error

    async def close(self) -> None:
        await reset_quietly(self._stream)

    def get_remote_address(self) -> tuple[str, int] | None:
        return None  # the relay's would be taken for the peer's

    def get_transport_addresses(self) -> list[Multiaddr]:
        return []

    def get_connection_type(self) -> ConnectionType:
        return ConnectionType.RELAYED


async def join(one: INetStream, other: INetStream) -> int:
    """Copy both ways until one side ends or a limit is reached; then reset both. The bytes copied."""
    budget = _Budget()
    async with trio.open_nursery() as nursery:
        for source, sink in ((one, other), (other, one)):
            nursery.start_soon(_copy, source, sink, budget, nursery.cancel_scope)
        nursery.cancel_scope.deadline = trio.current_time() + limits.RELAY_S
    for stream in (one, other):
        await reset_quietly(stream)
    return budget.used_bytes


class _Budget:
    """What a circuit may still carry, both ways together."""

    def __init__(self) -> None:
        self.used_bytes = 0
        self._bucket = TokenBucket(
            limits.RELAY_BURST_BYTES, limits.RELAY_BYTES_PER_S, trio.current_time()
        )

    async def take(self, count: int) -> bool:
        """Waits for the rate; False if the circuit has had its bytes."""
        if self.used_bytes + count > limits.RELAY_BYTES:
            return False
        self.used_bytes += count
        await trio.sleep(self._bucket.delay(trio.current_time(), count))
        return True


async def _copy(
    source: INetStream, sink: INetStream, budget: _Budget, scope: trio.CancelScope
) -> None:
    try:
        while data := await source.read(limits.RELAY_CHUNK_BYTES):
            if not await budget.take(len(data)):
                break
            await sink.write(data)
    except STREAM_ERRORS:
        pass
    scope.cancel()
