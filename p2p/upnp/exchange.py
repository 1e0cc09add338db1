"""One HTTP request to a device, and its whole answer, in bounded bytes and time (h11 over trio)."""

from __future__ import annotations

import h11
import trio

from primed.p2p import limits
from primed.p2p.errors import RemoteError
from primed.p2p.upnp.ssdp import Place

_HEAD_BYTES = 16 * 1024
_READ_BYTES = 16 * 1024


async def get(place: Place) -> tuple[int, bytes]:
    return await _exchange(place, "GET", {}, b"")


async def post(place: Place, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
    return await _exchange(place, "POST", headers, body)


async def _exchange(
    place: Place, method: str, headers: dict[str, str], body: bytes
) -> tuple[int, bytes]:
    """(status, body). Raises RemoteError; a redirect is a status like any other."""
    request = h11.Request(
        method=method,
        target=place.target,
        headers=[
            ("Host", f"{place.ip}:{place.port}"),
            ("Connection", "close"),
            ("Content-Length", str(len(body))),
            *headers.items(),
        ],
    )
    machine = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES)
    sent = (machine.send(request) or b"") + (machine.send(h11.Data(data=body)) or b"")
    machine.send(h11.EndOfMessage())
    try:
        with trio.fail_after(limits.UPNP_ANSWER_S):
            async with await trio.open_tcp_stream(place.ip, place.port) as stream:
                await stream.send_all(sent)
                return await _answer(machine, stream)
    except trio.TooSlowError:
        raise RemoteError(f"{place.ip} does not answer in time") from None
    except (OSError, trio.BrokenResourceError) as error:
        raise RemoteError(f"{place.ip} cannot be asked: {error}") from error
    except h11.RemoteProtocolError as error:
        raise RemoteError(f"{place.ip} answers with no HTTP: {error}") from error


async def _answer(machine: h11.Connection, stream: trio.abc.Stream) -> tuple[int, bytes]:
    status, body, read = 0, b"", 0
    while True:
        event = machine.next_event()
        if event is h11.NEED_DATA:
            data = await stream.receive_some(_READ_BYTES)
            if (read := read + len(data)) > limits.UPNP_ANSWER_BYTES:
                raise RemoteError(f"an answer of more than {limits.UPNP_ANSWER_BYTES} bytes")
            machine.receive_data(data)
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return status, body
