"""Sources that misbehave without lying, on the bulk lane of real hosts: the payload comes from another,
and what is nobody's fault costs nobody score."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from primed.p2p.errors import RemoteError
from primed.p2p.network import BulkChannel
from primed.p2p.uploads import Uploads
from primed.protocols.shardcast.bulk import answer_wants, purpose_of
from primed.protocols.shardcast.store import PayloadStore

from .bulk_receiver import RUN
from .bulk_talk import ready
from .test_protocol_shardcast_bulk import MIB, Node, a_file, nodes

pytestmark = pytest.mark.trio
SIZE = 8 * MIB
Serve = Callable[[Node, BulkChannel], None]


def keep_silent(node: Node, channel: BulkChannel) -> None:
    """It takes the question, and that is all."""
    while channel.recv_into(bytearray(1)):
        pass


def trickle(node: Node, channel: BulkChannel) -> None:
    """Some bytes a second."""
    channel.recv_into(bytearray(4))
    channel.send_all(b"\x00\x00\x03\xe8")
    with suppress(RemoteError):
        while True:
            channel.send_all(b"\x92")
            time.sleep(0.2)


def hang_up(node: Node, channel: BulkChannel) -> None:
    channel.recv_into(bytearray(4))


class Dying:
    """Serves as it should for a while, then is gone in the middle of a leaf."""

    def __init__(self, channel: BulkChannel) -> None:
        self._channel = channel
        self._left = 5
        self.peer, self.is_cut = channel.peer, False

    def recv_into(
        self, buffer: bytearray | memoryview, *, first_byte_s: float | None = None
    ) -> bool:
        return self._channel.recv_into(buffer, first_byte_s=first_byte_s)

    def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._left -= 1
        if not self._left:
            self._channel.send_all(memoryview(data)[: len(data) // 2])
            raise RemoteError("dies")
        self._channel.send_all(data)


def die(node: Node, channel: BulkChannel) -> None:
    answer_wants(node.store, node.network.uploads, lambda *_: None, Dying(channel))


@pytest.mark.parametrize("serve", [keep_silent, trickle, hang_up, die])
async def test_another_source_is_taken_and_the_file_is_bit_identical(
    serve: Serve, tmp_path: Path
) -> None:
    """The bad one shows a good pace over streams, as all do before they get a conversation."""
    talked = []

    def talk(channel: BulkChannel) -> None:
        talked.append(channel.peer)
        serve(bad, channel)

    async with nodes(tmp_path, 3, uploads=Uploads(4 * MIB)) as (honest, bad, b):
        await ready(bad.network, b.network)
        file = a_file(tmp_path, SIZE)
        payload = honest.store.import_file(file)
        bad.store.import_file(file)
        bad.network.bulk.serve(purpose_of(RUN), talk)
        b.cast.expect(payload, bad.peer)
        assert (await b.cast.wait(payload)).read_bytes() == file.read_bytes()
        assert talked
        assert b.score_of(honest) == 0 and b.score_of(bad) > -5
        carried, sent = b.cast.carried(), honest.cast.carried()
        assert sent["bulk", "sent"] + sent["streams", "sent"] > 0
        assert carried["bulk", "received"] + carried["streams", "received"] >= SIZE
        assert b.cast.amplification() < 1.5
        assert PayloadStore(tmp_path / "2").path(payload) is not None
