"""What peers say of themselves (identify and identify push), bounded before it is read or kept.

The library reads a megabyte, reads on after a wrong length for as long as bytes come, and keeps all
protocols and addresses of a thousand peers. `guard` puts this reader in the place of the library's.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError
from libp2p.abc import INetStream
from libp2p.exceptions import ParseError
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.io.exceptions import IOException
from libp2p.utils.varint import read_varint_prefixed_bytes_limited

from primed.p2p import limits
from primed.p2p.streams import STREAM_ERRORS, reset_quietly


async def read_identify(stream: INetStream, use_varint_format: bool = True) -> bytes:
    """The encoded message, cut to what is kept of it. Raises ParseError after resetting the stream,
    so that nobody reads on."""
    try:
        encoded = await read_varint_prefixed_bytes_limited(stream, limits.IDENTIFY_BYTES)
        message = Identify.FromString(encoded)
    except (IOException, DecodeError, ValueError, *STREAM_ERRORS) as error:
        await reset_quietly(stream)
        raise ParseError(f"not an identify message: {error}") from error
    del message.protocols[limits.IDENTIFY_PROTOCOLS :]
    del message.listen_addrs[limits.IDENTIFY_ADDRESSES :]
    return message.SerializeToString()
