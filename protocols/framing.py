"""Frames over a stream: u32 big-endian length, then the body; and strict decoding of bodies.

Assumes nothing about the bytes: the length is checked against a cap before the body is read, memory
grows only with what has arrived, and every wait ends. A message may pause for at most IDLE_S and
must average MIN_BYTES_PER_S; there is no fixed time for a size. All faults are RemoteError with the
sender's id; slowness costs nothing or little, wrong bytes cost much.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TypeVar

import msgspec
import msgspec.inspect
import trio
from msgspec import Struct
from msgspec.msgpack import Decoder

from primed.p2p.errors import HIGH, LOW, MID, RemoteError
from primed.p2p.network import PeerId, Stream
from primed.protocols.limits import IDLE_S, MIN_BYTES_PER_S, READ_BYTES, RESET_S

T = TypeVar("T")
HEADER_BYTES = 4
_encoder = msgspec.msgpack.Encoder()


def encode(message: Struct) -> bytes:
    return _encoder.encode(message)


def decode(decoder: Decoder[T], data: bytes | memoryview, peer: PeerId = b"") -> T:
    """The message. Raises RemoteError(peer) for anything else: malformed, nested too deeply, text
    that is not UTF-8 (msgspec lets UnicodeDecodeError through), a float that is not finite."""
    try:
        value = decoder.decode(data)
    except (ValueError, RecursionError, OverflowError) as error:
        reason = f"malformed message: {error}"[:200]
        raise RemoteError(reason, peer=peer, penalty=HIGH) from error
    if not is_finite(value):
        raise RemoteError("a number is not finite", peer=peer, penalty=HIGH)
    return value


def is_finite(value: object) -> bool:
    """Whether no float inside a decoded value is NaN or infinite (msgspec accepts both)."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Struct):
        return all(is_finite(getattr(value, name)) for name in _with_floats(type(value)))
    if isinstance(value, (tuple, list)):
        return all(map(is_finite, value))
    if isinstance(value, dict):
        return all(map(is_finite, value.values()))
    return True


@cache
def _with_floats(kind: type[Struct]) -> tuple[str, ...]:
    """The fields inside which a float may be: few messages have any."""
    fields = msgspec.inspect.type_info(kind).fields  # type: ignore[attr-defined]
    return tuple(field.name for field in fields if _holds_floats(field.type))


def _holds_floats(kind: msgspec.inspect.Type) -> bool:
    match kind:
        case msgspec.inspect.FloatType() | msgspec.inspect.AnyType():
            return True
        case msgspec.inspect.StructType(cls=cls):
            return bool(_with_floats(cls))
        case msgspec.inspect.UnionType(types=kinds) | msgspec.inspect.TupleType(item_types=kinds):
            return any(map(_holds_floats, kinds))
        case msgspec.inspect.DictType(key_type=key, value_type=value):
            return _holds_floats(key) or _holds_floats(value)
        case _:
            return hasattr(kind, "item_type") and _holds_floats(kind.item_type)


def time_for(size_bytes: int) -> float:
    """Seconds within which a message of this size must have arrived or left."""
    return IDLE_S + size_bytes / MIN_BYTES_PER_S


def _shielded(seconds: float) -> trio.CancelScope:
    return trio.CancelScope(deadline=trio.current_time() + seconds, shield=True)


class Framed:
    """Frames on one stream. One task may read while one other writes."""

    def __init__(self, stream: Stream) -> None:
        self.peer = stream.peer
        self._stream = stream
        self._buffer = bytearray()

    async def read(
        self, cap_bytes: int, *, first_byte_s: float = IDLE_S, by: float = math.inf
    ) -> bytes:
        """The next frame's body; b"" if the peer ended the stream between frames.

        Waits first_byte_s (may be infinite) for it to begin. `by` is an additional deadline.
        """
        if not self._buffer and not await self._fill(min(trio.current_time() + first_byte_s, by)):
            return b""
        await self._fill_to(HEADER_BYTES, min(trio.current_time() + IDLE_S, by))
        length = int.from_bytes(self._buffer[:HEADER_BYTES], "big")
        if not 0 < length <= cap_bytes:
            raise self._fault(f"a frame of {length} bytes where {cap_bytes} are allowed", HIGH)
        whole = HEADER_BYTES + length
        await self._fill_to(whole, min(trio.current_time() + time_for(length), by))
        body = bytes(memoryview(self._buffer)[HEADER_BYTES:whole])
        del self._buffer[:whole]
        return body

    async def write(self, body: bytes) -> None:
        """Shielded: a cancelled caller must not leave half a frame behind. Raises RemoteError."""
        with _shielded(time_for(len(body))) as scope:
            await self._stream.write_all(len(body).to_bytes(HEADER_BYTES, "big") + body)
        if scope.cancelled_caught:
            raise self._fault("took no bytes in time", LOW)

    async def close(self) -> None:
        with _shielded(RESET_S):
            await self._stream.close()

    async def reset(self) -> None:
        with _shielded(RESET_S):
            await self._stream.reset()

    async def _fill_to(self, count: int, deadline: float) -> None:
        while len(self._buffer) < count:
            if not await self._fill(min(deadline, trio.current_time() + IDLE_S)):
                raise self._fault("ended the stream inside a message", MID)

    async def _fill(self, deadline: float) -> bool:
        """One read; False at the end of the stream."""
        with trio.move_on_at(deadline) as scope:
            data = await self._stream.read_some(READ_BYTES)
        if scope.cancelled_caught:
            partial = bool(self._buffer)
            raise self._fault("too slow" if partial else "no answer in time", LOW if partial else 0)
        self._buffer += data
        return bool(data)

    def _fault(self, reason: str, penalty: int) -> RemoteError:
        return RemoteError(reason, peer=self.peer, penalty=penalty)
