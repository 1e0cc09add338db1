"""Streams over real hosts: failing handlers, cancelled writes, lost connections, limits."""

from __future__ import annotations

import gc
import socket
import struct

import pytest
import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.stream_muxer.yamux import yamux

from primed.p2p import limits, peerid
from primed.p2p.errors import MID, RemoteError
from primed.p2p.identity import Identity
from primed.p2p.network import Stream

from .hosts import ECHO, ask, new_network, started, until

pytestmark = pytest.mark.trio


async def test_trap_1_an_exception_in_a_handler_resets_that_stream_only() -> None:
    async def fail(stream: Stream) -> None:
        await stream.read_some(10)
        raise ZeroDivisionError("a bug in a handler")

    one, other = new_network(), new_network()
    one.handle("/primed/fails/1", fail)
    async with started(one, other):
        stream = await other.open_stream(one.peer, "/primed/fails/1")
        await stream.write_all(b"go")
        with pytest.raises(RemoteError, match="cut"), trio.fail_after(5):
            await stream.read_some(1)
        assert one.traffic.handler_errors == 1
        assert await ask(other, one.peer, b"alive") == b"alive"


async def test_a_remote_error_in_a_handler_costs_the_peer_its_penalty() -> None:
    async def complain(stream: Stream) -> None:
        await stream.read_some(10)
        raise RemoteError("nonsense", penalty=MID)

    one, other = new_network(), new_network()
    one.handle("/primed/complains/1", complain)
    async with started(one, other):
        stream = await other.open_stream(one.peer, "/primed/complains/1")
        await stream.write_all(b"nonsense")
        await until(lambda: one.peers()[0].score < 0)
        assert one.traffic.handler_errors == 0


async def test_trap_1_an_exception_in_a_handler_of_the_library_is_contained_too() -> None:
    async def fail(stream: INetStream) -> None:
        raise ZeroDivisionError("a bug in the library")

    one, other = new_network(), new_network()
    async with started(one, other):
        one._running().host.set_stream_handler(TProtocol("/library/1"), fail)
        with pytest.raises(RemoteError), trio.fail_after(5):
            stream = await other.open_stream(one.peer, "/library/1")
            await stream.read_some(1)
        await until(lambda: one.traffic.handler_errors == 1)
        assert await ask(other, one.peer, b"alive") == b"alive"


async def test_trap_4_a_cancelled_write_ends_its_stream_and_not_the_connection() -> None:
    """Cancelled in the middle of a Noise record: small socket buffers see to that."""

    async def never_read(stream: Stream) -> None:
        await trio.sleep_forever()

    one, other = new_network(), new_network()
    one.handle("/primed/deaf/1", never_read)
    cancelled = 0
    async with started(one, other):
        for socket_stream in gc.get_objects():
            if type(socket_stream) is trio.SocketStream and socket_stream.socket.fileno() >= 0:
                socket_stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        for attempt in range(6):  # eight streams are allowed
            stream = await other.open_stream(one.peer, "/primed/deaf/1")
            with trio.move_on_after(0.0005 * attempt) as patience:
                await stream.write_all(b"x" * 240_000)
            cancelled += patience.cancelled_caught
            if patience.cancelled_caught:
                with pytest.raises(RemoteError):
                    await stream.write_all(b"more")
            await stream.reset()
        assert cancelled > 1
        assert await ask(other, one.peer, b"y" * 50_000) == b"y" * 50_000
        assert one.peers()[0].connected_s > 0.05
        with trio.move_on_after(0.2) as patience:  # and while waiting for the window to open
            stream = await other.open_stream(one.peer, "/primed/deaf/1")
            await stream.write_all(b"x" * 4 * 1024 * 1024)
        assert patience.cancelled_caught
        assert await ask(other, one.peer, b"alive") == b"alive"


async def test_trap_7_many_mebibytes_pass_in_small_reads() -> None:
    one, other = new_network(), new_network()
    size = 8 * 1024 * 1024
    received = bytearray()
    done = trio.Event()

    async def collect(stream: Stream) -> None:
        while data := await stream.read_some(16 * 1024):
            assert len(data) <= 16 * 1024
            received.extend(data)
        done.set()

    one.handle("/primed/collect/1", collect)
    async with started(one, other):
        stream = await other.open_stream(one.peer, "/primed/collect/1")
        payload = bytes(range(256)) * (size // 256)
        with trio.fail_after(20):
            await stream.write_all(payload)
            await stream.close()
            await done.wait()
        assert received == payload
        assert other.traffic.stream_sent_bytes == one.traffic.stream_received_bytes == size


async def test_a_peer_may_hold_eight_streams_of_a_protocol() -> None:
    one, other = new_network(), new_network()
    async with started(one, other):
        streams = [await other.open_stream(one.peer, ECHO) for _ in range(8)]
        for stream in streams:
            await stream.write_all(b"?")
            assert await stream.read_some(1) == b"?"
        with pytest.raises(RemoteError), trio.fail_after(5):
            ninth = await other.open_stream(one.peer, ECHO)
            await ninth.write_all(b"?")
            assert await ninth.read_some(1) == b"?"
        await streams[0].close()
        await trio.sleep(0.2)
        assert await ask(other, one.peer, b"again") == b"again"


async def test_handlers_end_with_the_connection() -> None:
    running, ended = trio.Event(), trio.Event()

    async def wait(stream: Stream) -> None:
        running.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    one, other = new_network(), new_network()
    one.handle("/primed/waits/1", wait)
    changes: list[tuple[bytes, bool]] = []
    one.on_peer(lambda peer, connected: changes.append((peer, connected)))
    async with one.running(["/ip4/127.0.0.1/tcp/0"], []):
        async with other.running(["/ip4/127.0.0.1/tcp/0"], list(one.listen_addresses())):
            await until(lambda: len(other.peers()) == 1)
            await other.open_stream(one.peer, "/primed/waits/1")
            await running.wait()
        with trio.fail_after(5):
            await ended.wait()
        await until(lambda: changes == [(other.peer, True), (other.peer, False)])
        assert one.peers() == []


async def test_what_cannot_be_opened_is_a_remote_error() -> None:
    one, other = new_network(), new_network()
    async with started(one, other):
        with pytest.raises(RemoteError):
            await other.open_stream(one.peer, "/primed/unheard-of/1")
        with pytest.raises(RemoteError, match="no address"):
            await other.open_stream(Identity.generate().peer, ECHO)
        with pytest.raises(RemoteError):
            await other.connect("/ip4/127.0.0.1/tcp/1/p2p/" + "1" * 20)
        with pytest.raises(RemoteError, match="refused"):
            stranger = peerid.to_text(Identity.generate().peer)
            await other.connect(f"/ip4/127.0.0.1/tcp/1/p2p/{stranger}")
        assert await ask(other, one.peer, b"alive") == b"alive"


async def test_a_peer_that_ignores_flow_control_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Unread bytes are bounded, whatever the windows say."""

    async def never_read(stream: Stream) -> None:
        await trio.sleep_forever()

    one, other = new_network(), new_network()
    one.handle("/primed/deaf/1", never_read)
    async with started(one, other):
        stream = await other.open_stream(one.peer, "/primed/deaf/1")
        muxed = stream._stream.muxed_stream  # type: ignore[attr-defined]
        monkeypatch.setattr(limits, "CONNECTION_BUFFER_BYTES", 1024 * 1024)
        muxed.send_window = 2**31  # the attacker's own book-keeping
        with pytest.raises(RemoteError):
            for _ in range(100):
                await stream.write_all(b"x" * 65_000)
        await until(lambda: one.peers() == [] or one.peers()[0].connected_s < 2.0)


async def test_a_peer_may_fill_the_window_it_was_granted_in_one_frame() -> None:
    """js-libp2p does. The library grants more than the greatest frame that it takes, and then
    closes the connection of an honest peer."""
    one, other = new_network(), new_network()
    async with started(one, other):
        stream = await other.open_stream(one.peer, ECHO)
        muxed = stream._stream.muxed_stream  # type: ignore[attr-defined]
        for size in (100, 200, 400, 800):  # small answers, small updates: the window grows
            await stream.write_all(b"x" * size)
            answer = b""
            with trio.fail_after(10):
                while len(answer) < size:
                    answer += await stream.read_some(limits.READ_BYTES)
        await until(lambda: muxed.send_window >= limits.RECEIVE_WINDOW_BYTES)
        whole = muxed.send_window
        assert whole == limits.RECEIVE_WINDOW_BYTES
        header = struct.pack(yamux.YAMUX_HEADER_FORMAT, 0, 0, 0, muxed.stream_id, whole)
        await muxed.conn._write_frame(header + b"w" * whole)
        answer = b""
        with trio.fail_after(20):
            while len(answer) < whole:
                answer += await stream.read_some(limits.READ_BYTES)
        assert await ask(other, one.peer, b"alive") == b"alive"
