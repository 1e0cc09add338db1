"""Messages of circuit relay v2 on a stream: length-prefixed protobuf, bounded, with deadlines."""

from __future__ import annotations

from typing import TypeVar

import trio
from google.protobuf.message import DecodeError
from libp2p.abc import INetStream
from libp2p.io.exceptions import IOException
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, Status, StopMessage
from libp2p.utils.varint import encode_varint_prefixed, read_varint_prefixed_bytes_limited

from primed.p2p import limits
from primed.p2p.errors import MID, RemoteError
from primed.p2p.streams import STREAM_ERRORS, root_cause

T = TypeVar("T", HopMessage, StopMessage)
_LONGEST_BYTES = 4096


async def read(stream: INetStream, kind: type[T]) -> T:
    """The next message. Raises RemoteError."""
    peer = stream.muxed_conn.peer_id.to_bytes()
    message = kind()
    try:
        with trio.fail_after(limits.SILENT_S):
            body = await read_varint_prefixed_bytes_limited(stream, _LONGEST_BYTES)
        message.ParseFromString(body)
    except trio.TooSlowError:
        raise RemoteError("no relay message in time", peer=peer) from None
    except DecodeError as error:
        raise RemoteError(f"no relay message: {error}", peer=peer, penalty=MID) from error
    except (IOException, *STREAM_ERRORS) as error:
        raise RemoteError(f"relay stream lost: {root_cause(error)}", peer=peer) from error
    return message


async def write(stream: INetStream, message: HopMessage | StopMessage) -> None:
    """Raises RemoteError."""
    try:
        await stream.write(encode_varint_prefixed(message.SerializeToString()))
    except STREAM_ERRORS as error:
        peer = stream.muxed_conn.peer_id.to_bytes()
        raise RemoteError(f"relay stream lost: {root_cause(error)}", peer=peer) from error


def check_ok(message: HopMessage | StopMessage, peer: bytes) -> None:
    """Raises RemoteError unless it is the status OK."""
    if message.type != type(message).STATUS or message.status != Status.OK:
        why = Status.Name(message.status) if message.HasField("status") else "no status"
        raise RemoteError(f"the relay path was refused: {why}", peer=peer)
