"""Requests and responses over framed streams: the envelope that all protocols share.

A request frame is a RequestHead, a response frame a ResponseHead with the same id; the body inside
is one message of the protocol. Either may announce `attached_bytes`: raw frames of exactly
DATA_FRAME_BYTES (the last one shorter) that follow, so that big files never sit in memory; each
waits for the upload allowance (`p2p.uploads`).
On one stream requests are answered in order, one at a time; `protocols.client` keeps a small pool
of streams a peer, `protocols.server` answers. Codes and their meaning:

ok · bad_request (your fault, do not repeat) · not_found · busy (again after retry_after_ms) ·
too_old (pruned here, or an older protocol version) · denied (not for you, ever)
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import trio
from msgspec import Meta, Raw, Struct
from msgspec.msgpack import Decoder

from primed.p2p.errors import HIGH, LocalError, RemoteError
from primed.p2p.uploads import Uploads
from primed.protocols.disk import on_disk
from primed.protocols.framing import Framed, time_for
from primed.protocols.limits import (
    ATTACHMENT_MAX_BYTES,
    DATA_FRAME_BYTES,
    MIN_BYTES_PER_S,
    PIECE_WITHIN_S,
)

Code = Literal["ok", "bad_request", "not_found", "busy", "too_old", "denied"]
RequestId = Annotated[int, Meta(ge=0, le=2**32 - 1)]
AttachedBytes = Annotated[int, Meta(ge=0, le=ATTACHMENT_MAX_BYTES)]
NO_BODY = Raw(b"\xc0")


class RequestHead(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    id: RequestId
    attached_bytes: AttachedBytes
    body: Raw


class ResponseHead(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    id: RequestId
    code: Code
    retry_after_ms: Annotated[int, Meta(ge=0, le=600_000)]
    detail: Annotated[str, Meta(max_length=200)]
    attached_bytes: AttachedBytes
    body: Raw


request_heads: Decoder[RequestHead] = Decoder(RequestHead)
response_heads: Decoder[ResponseHead] = Decoder(ResponseHead)


class Refused(RemoteError):
    """An answer other than ok. Servers raise it to answer so; clients raise it to their caller."""

    def __init__(
        self, code: Code, detail: str = "", *, retry_after_ms: int = 0, peer: bytes = b""
    ) -> None:
        super().__init__(f"{code}: {detail}" if detail else code, peer=peer)
        self.code = code
        self.detail = detail
        self.retry_after_ms = retry_after_ms


class Attachment:
    """The raw frames that follow a head, read one by one. Must be read to the end."""

    def __init__(self, frames: Framed, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.remaining_bytes = size_bytes
        self._frames = frames
        self._started = trio.current_time()

    async def read(self) -> bytes:
        """The next piece, b"" at the end. Raises RemoteError when slow, torn or out of size."""
        expected = min(DATA_FRAME_BYTES, self.remaining_bytes)
        if not expected:
            return b""
        received = self.size_bytes - self.remaining_bytes
        by = self._started + time_for(0) + (received + expected) / MIN_BYTES_PER_S
        data = await self._frames.read(expected, by=by)
        if len(data) != expected:
            raise RemoteError("attachment is torn", peer=self._frames.peer, penalty=HIGH)
        self.remaining_bytes -= expected
        return data


async def read_to_file(attachment: Attachment, path: Path) -> None:
    """Write the attachment to a new file and sync it. The file is removed if it is not complete."""
    file = await on_disk(path.open, "xb")
    try:
        while data := await attachment.read():
            await on_disk(file.write, data)
        await on_disk(_sync, file)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        file.close()


def refuse_unless_soon(uploads: Uploads, size_bytes: int, *, is_owed: bool) -> None:
    """Raises Refused where the upload allowance would keep an attachment's reader waiting."""
    reason, wait_s = uploads.why_not(is_owed=is_owed)
    if not reason and min(size_bytes, DATA_FRAME_BYTES) / uploads.cap_bytes_per_s > PIECE_WITHIN_S:
        reason, wait_s = "the upload cap is too low for a file of this size", math.inf
    if reason:
        raise busy(reason, wait_s)


def busy(reason: str, wait_s: float) -> Refused:
    """To be raised: come again after so long, or to look after ten minutes."""
    return Refused("busy", reason, retry_after_ms=int(1000 * min(wait_s, 600)))


async def send_file(frames: Framed, path: Path, size_bytes: int, uploads: Uploads) -> None:
    """Send exactly size_bytes of a file as data frames, each when the upload allowance lets it, or
    before its reader would give up. Raises LocalError if the file is shorter."""
    file = await on_disk(path.open, "rb")
    try:
        left = size_bytes
        while left:
            data = await on_disk(file.read, min(DATA_FRAME_BYTES, left))
            if len(data) != min(DATA_FRAME_BYTES, left):
                raise LocalError(f"{path.name} is shorter than {size_bytes} bytes")
            await trio.sleep(min(uploads.reserve(len(data)), PIECE_WITHIN_S))
            await frames.write(data)
            left -= len(data)
    finally:
        file.close()


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
