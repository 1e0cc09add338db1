"""Payloads over the bulk lane of real hosts: fallback, corruption, lies, crashes, a full disk."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from primed.p2p import limits
from primed.p2p.host import Libp2pNetwork
from primed.p2p.identity import Identity
from primed.p2p.network import BulkChannel
from primed.p2p.uploads import Uploads
from primed.protocols.by_run import RunServers
from primed.protocols.framing import encode
from primed.protocols.shardcast import PayloadStore, Shardcast, transfer
from primed.protocols.shardcast import messages as wire
from primed.protocols.shardcast.bulk import purpose_of
from primed.verify.statements import Payload

from ..attack.bulk_proxy import Harm, bit_errors, bulk_proxy
from . import bulk_receiver
from .bulk_receiver import RUN
from .bulk_talk import ready
from .hosts import ECHO, LOCAL, PROFILE, echo, until

pytestmark = pytest.mark.trio
MIB = 1 << 20


class Node:
    def __init__(self, folder: Path, uploads: Uploads | None = None) -> None:
        identity = Identity.generate()
        self.network = Libp2pNetwork(identity, profile=PROFILE, uploads=uploads)
        self.network.handle(ECHO, echo)
        self.peer = identity.peer
        self.store = PayloadStore(folder)
        servers, rng = RunServers(self.network), random.Random(1)
        self.cast = Shardcast(servers, self.store, RUN, identity.peer, identity.sign, rng)

    @property
    def address(self) -> str:
        return self.network.listen_addresses()[0]

    def score_of(self, other: Node) -> float:
        return next(i.score for i in self.network.peers() if i.peer == other.peer)


@asynccontextmanager
async def nodes(
    folder: Path, count: int, harm: Harm | None = None, uploads: Uploads | None = None
) -> AsyncIterator[list[Node]]:
    """The last one has dialled the others; the first of them, if harm is given, by a proxy."""
    made = [Node(folder / str(index), None if index else uploads) for index in range(count)]
    with trio.fail_after(40):
        async with AsyncExitStack() as stack:
            for node in made:
                await stack.enter_async_context(node.network.running([LOCAL], []))
            nursery = await stack.enter_async_context(trio.open_nursery())
            for node in made:
                nursery.start_soon(node.cast.run)
            address = made[0].address
            if harm is not None:
                proxy = await stack.enter_async_context(bulk_proxy(address))
                proxy.harm, address = harm, proxy.address
            for to in (address, *(node.address for node in made[1:-1])):
                await made[-1].network.connect(to)
            await ready(made[0].network, made[-1].network)
            yield made
            assert not any(node.network.traffic.handler_errors for node in made)
            nursery.cancel_scope.cancel()


def a_file(folder: Path, size_bytes: int = 6 * MIB) -> Path:
    path = folder / "weights"
    path.write_bytes(random.Random(size_bytes).randbytes(size_bytes))
    return path


async def get(node: Node, payload: Payload, source: Node) -> bytes:
    node.cast.expect(payload, source.peer)
    return (await node.cast.wait(payload)).read_bytes()


async def test_large_payloads_travel_on_the_bulk_lane_both_ways(tmp_path: Path) -> None:
    async with nodes(tmp_path, 2) as (a, b):
        first, second = a_file(tmp_path, 20 * MIB), a_file(tmp_path / "1", 5 * MIB + 17)
        for source, sink, file in ((a, b, first), (b, a, second)):
            data = file.read_bytes()
            payload = await source.cast.add(file)
            assert await get(sink, payload, source) == data
            lanes = sink.cast.lanes
            assert (
                lanes.stream_bytes <= 4 * payload.leaf_bytes
            )  # until the source has shown its pace
            assert len(data) <= lanes.bulk_bytes + lanes.stream_bytes <= 1.1 * len(data)
            assert source.network.traffic.bulk_sent_bytes >= lanes.bulk_bytes


async def test_streams_take_over_where_bulk_connections_are_cut(tmp_path: Path) -> None:
    async with nodes(tmp_path, 2, harm=lambda chunk: None) as (a, b):
        file = a_file(tmp_path, 2 * MIB)
        payload = await a.cast.add(file)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(limits, "BULK_HANDSHAKE_S", 0.5)
            b.cast.expect(payload, a.peer)
            await until(lambda: b.network.peers()[0].lane == "streams")
            assert "no TLS: not in time; again in" in b.network.peers()[0].lane_reason
            assert (await b.cast.wait(payload)).read_bytes() == file.read_bytes()
        assert b.cast.lanes.bulk_bytes == 0


async def test_scenario_6_one_corrupt_bit_in_a_million(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BULK_PAUSE_FIRST_S", 0.05)
    harm = bit_errors(random.Random(5))
    async with nodes(tmp_path, 2, harm=harm) as (a, b):
        file = a_file(tmp_path)
        payload = await a.cast.add(file)
        assert await get(b, payload, a) == file.read_bytes()
        assert b.cast.lanes.bulk_bytes > 0
        assert a.score_of(b) > -5 and b.score_of(a) == 0  # the wire's fault


Serve = Callable[[PayloadStore, Payload, BulkChannel], None]


def lie_in_a_bit(store: PayloadStore, payload: Payload, channel: BulkChannel) -> None:
    """The leaves that were asked for, a bit in a million flipped: here, at least one each."""
    indexes = asked(channel)
    read = [(index, store.read_leaf(payload, index)) for index in indexes]
    proven = tuple(wire.Proven(i, tuple(leaf[1])) for i, leaf in read if leaf is not None)
    send(channel, encode(wire.Coming(proven)))
    for _, leaf in read:
        assert leaf is not None
        data = bytearray(leaf[0])
        data[len(data) // 2] ^= 4
        channel.send_all(data)
    channel.recv_into(bytearray(1))


def send_what_nobody_asked_for(store: PayloadStore, payload: Payload, channel: BulkChannel) -> None:
    other = next(i for i in range(payload.leaves) if i not in asked(channel))
    send(channel, encode(wire.Coming((wire.Proven(other, ()),))))
    channel.recv_into(bytearray(1))


def announce_four_gigabytes(store: PayloadStore, payload: Payload, channel: BulkChannel) -> None:
    channel.send_all(b"\xff\xff\xff\xff")
    channel.recv_into(bytearray(1))


def babble(store: PayloadStore, payload: Payload, channel: BulkChannel) -> None:
    send(channel, b"\x92" * 500)
    channel.recv_into(bytearray(1))


def asked(channel: BulkChannel) -> tuple[int, ...]:
    head = bytearray(4)
    channel.recv_into(head)
    body = bytearray(int.from_bytes(head, "big"))
    channel.recv_into(body)
    return wire.wants.decode(body).indexes


def send(channel: BulkChannel, body: bytes) -> None:
    channel.send_all(len(body).to_bytes(4, "big") + body)


@pytest.mark.parametrize(
    "serve", [lie_in_a_bit, send_what_nobody_asked_for, announce_four_gigabytes, babble]
)
async def test_scenario_6_what_is_false_is_charged_to_its_sender_and_fetched_elsewhere(
    serve: Serve, tmp_path: Path
) -> None:
    async with nodes(tmp_path, 3) as (honest, liar, b):
        await ready(liar.network, b.network)
        file = a_file(tmp_path, 2 * MIB)
        payload = honest.store.import_file(file)
        liar.store.import_file(file)
        talk = partial(serve, liar.store, payload)
        liar.network.bulk.serve(purpose_of(RUN), talk)
        assert await get(b, payload, liar) == file.read_bytes()
        await until(lambda: b.score_of(liar) <= -9)
        assert b.score_of(honest) == 0


@pytest.mark.parametrize("sent", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x08" + b"\x93" * 8])
async def test_wrong_wants_are_charged_to_the_asker(sent: bytes, tmp_path: Path) -> None:
    async with nodes(tmp_path, 2) as (a, b):

        def ask(channel: BulkChannel) -> bool:
            channel.send_all(sent)
            return channel.recv_into(bytearray(1))

        assert not await b.network.bulk.converse(a.peer, purpose_of(RUN), ask)
        await until(lambda: a.score_of(b) <= -9)


async def test_scenario_12_a_full_disk_is_named_and_waited_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "DISK_RETRY_S", 0.2)
    async with nodes(tmp_path, 2) as (a, b):
        file = a_file(tmp_path)
        payload = await a.cast.add(file)
        works = b.store.write_leaf

        def full(*args: object) -> bool:
            raise OSError(28, "No space left on device")

        b.store.write_leaf = full  # type: ignore[method-assign, assignment]
        b.cast.expect(payload, a.peer)
        await until(lambda: "No space left" in b.cast.progress(payload).reason)
        b.store.write_leaf = works  # type: ignore[method-assign]
        assert (await b.cast.wait(payload)).read_bytes() == file.read_bytes()
        assert b.score_of(a) == 0


@pytest.mark.parametrize("kills", [(40,), pytest.param((1, 2, 5, 60, 30), marks=pytest.mark.slow)])
async def test_scenario_1_a_receiver_killed_at_any_point_goes_on_where_it_was(
    kills: tuple[int, ...], tmp_path: Path
) -> None:
    """kills: after how many leaves, those of earlier lives included."""
    size = 8 * MIB
    async with nodes(tmp_path, 2, uploads=Uploads(16 * MIB)) as (a, _):
        file = a_file(tmp_path, size)
        payload = a.store.import_file(file)
        folder = tmp_path / "killed"
        figures = (payload.root.hex(), str(size), str(payload.leaf_bytes))
        command = [sys.executable, bulk_receiver.__file__, str(folder), a.address, *figures]
        for count in kills:
            await trio.to_thread.run_sync(kill_at, command, count)
        done = await trio.run_process(command, capture_stdout=True)
        *leaves, last = done.stdout.decode().splitlines()
        _, bulk_bytes, stream_bytes = last.split()
        assert len(leaves) <= payload.leaves
        assert int(bulk_bytes) + int(stream_bytes) <= size - (max(kills) - 16) * payload.leaf_bytes
        assert PayloadStore(folder).path(payload) is not None
        [final] = [path for path in folder.iterdir() if "." not in path.name]
        assert final.read_bytes() == file.read_bytes()


def kill_at(command: list[str], leaves: int) -> None:
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(leaves):
            assert process.stdout.readline() == "leaf\n"
        process.send_signal(signal.SIGKILL)
