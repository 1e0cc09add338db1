"""Messages of /primed/bulk/1 on the libp2p stream: u32 big-endian length, msgpack, one each way."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct
from msgspec.msgpack import Decoder

from primed.p2p import limits
from primed.p2p.bulk.tickets import TICKET_BYTES
from primed.p2p.errors import HIGH, MID, RemoteError
from primed.p2p.network import Stream

M = TypeVar("M")
MESSAGE_BYTES = 1024
_HEADER_BYTES = 4
TicketOrNone = Annotated[bytes, Meta(max_length=TICKET_BYTES)]  # empty: none


class _Message(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    pass


class Ask(_Message, frozen=True, tag="ask"):
    """May I talk to you? `dials` says who opens the TCP connection: with "answerer" the asker
    listens, and `ticket` is for the answerer."""

    purpose: Annotated[str, Meta(max_length=limits.BULK_PURPOSE_CHARS)]
    dials: Literal["asker", "answerer"]
    ticket: TicketOrNone


class Granted(_Message, frozen=True, tag="granted"):
    """`ticket` is for the asker, where the asker dials."""

    ticket: TicketOrNone


class Refused(_Message, frozen=True, tag="refused"):
    reason: Annotated[str, Meta(max_length=200)]
    retry_ms: Annotated[int, Meta(ge=0, le=600_000)]


asks: Decoder[Ask] = Decoder(Ask)
answers: Decoder[Granted | Refused] = Decoder(Granted | Refused)


async def send(stream: Stream, message: Struct) -> None:
    body = msgspec.msgpack.encode(message)
    await stream.write_all(len(body).to_bytes(_HEADER_BYTES, "big") + body)


async def receive(stream: Stream, decoder: Decoder[M]) -> M:
    """One message. Raises RemoteError; the caller sets the deadline."""
    length = int.from_bytes(await _exactly(stream, _HEADER_BYTES), "big")
    if not 0 < length <= MESSAGE_BYTES:
        raise RemoteError(f"a message of {length} bytes", peer=stream.peer, penalty=HIGH)
    try:
        return decoder.decode(await _exactly(stream, length))
    except (ValueError, RecursionError) as error:
        reason = f"malformed message: {error}"[:200]
        raise RemoteError(reason, peer=stream.peer, penalty=HIGH) from error


async def _exactly(stream: Stream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = await stream.read_some(count - len(data))
        if not piece:
            penalty = MID if data else 0
            raise RemoteError("ended inside a message", peer=stream.peer, penalty=penalty)
        data += piece
    return data
