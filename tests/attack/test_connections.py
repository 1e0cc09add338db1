"""Hostile and broken connections: floods, silence, slices, wrong bits, wrong lengths.

Different loopback addresses stand for different hosts: 127.a.b.c is in the /16 of 127.a.
"""

from __future__ import annotations

import gc
import json
import os
import random
import resource
import socket
import statistics
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.lowlevel
from libp2p.utils.varint import encode_uvarint

from primed.p2p import limits
from primed.p2p.errors import RemoteError
from primed.p2p.host import Libp2pNetwork

from ..net.hosts import ECHO, LOCAL, PROFILE, Inbox, ask, new_network, started, subscribers, until
from . import flooder
from .flooder import is_cut
from .proxy import proxy_to, sliced
from .victim import STATS

pytestmark = pytest.mark.trio
VICTIM = Path(__file__).with_name("victim.py")


@asynccontextmanager
async def start_victim(
    open_files: int, ip: str = "127.1.0.1"
) -> AsyncIterator[tuple[trio.Process, str]]:
    """A node in a process of its own that may open so many files, and its address."""
    child = await trio.lowlevel.open_process(
        [sys.executable, str(VICTIM), str(open_files), ip], stdout=-1
    )
    assert child.stdout is not None
    try:
        with trio.fail_after(60):
            address = (await child.stdout.receive_some(1000)).decode().strip()
        yield child, address
        assert child.poll() is None, "the victim ended"
    finally:
        child.kill()
        await child.wait()
        await child.stdout.aclose()


@asynccontextmanager
async def victim(open_files: int) -> AsyncIterator[str]:
    async with start_victim(open_files) as (_, address):
        with trio.fail_after(60):
            yield address


async def stats(observer: Libp2pNetwork, peer: bytes) -> dict[str, int]:
    stream = await observer.open_stream(peer, STATS)
    with trio.fail_after(10):
        text = b""
        while not text.endswith(b"\n"):
            text += await stream.read_some(4096)
    await stream.close()
    return dict(json.loads(text))


async def request_s(observer: Libp2pNetwork, peer: bytes) -> float:
    began = trio.current_time()
    await ask(observer, peer, b"?")
    return trio.current_time() - began


def dial(source: str, address: str) -> socket.socket:
    """A TCP connection from this loopback IP to a multiaddr, with nothing on it."""
    _, _, ip, _, port, *_ = address.split("/")
    return flooder.dial(source, ip, int(port))


def p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


async def _flooded(open_files: int, sources: list[str], allowed: int) -> None:
    honest, count = new_network(profile=limits.HOME), len(sources)
    async with victim(open_files) as address, honest.running(["/ip4/127.200.0.1/tcp/0"], []):
        peer = await honest.connect(address)
        quiet = [await request_s(honest, peer) for _ in range(100)]
        before = await stats(honest, peer)
        busy: list[float] = []

        async def watch() -> None:
            while True:
                busy.append(await request_s(honest, peer))
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            began = trio.current_time()
            _, _, ip, _, port, *_ = address.split("/")
            flooding = [sys.executable, flooder.__file__, ip, port, *sources]
            still_open = int((await trio.run_process(flooding, capture_stdout=True)).stdout)
            rounds = (
                1 + (trio.current_time() - began) / limits.UPGRADE_S
            )  # then places are free again
            nursery.cancel_scope.cancel()
        await trio.sleep(1.0)
        after = await stats(honest, peer)
        assert still_open <= allowed
        assert after["refused"] >= count - allowed * rounds - 50
        assert after["files"] <= before["files"] + 1
        assert after["tasks"] <= before["tasks"] + 5
        assert after["resident_bytes"] - before["resident_bytes"] < 16 * 2**20
        assert after["handler_errors"] == 0
        assert p99(busy) < 2 * p99(quiet) + 0.03


async def test_scenario_13_and_19_connects_from_one_address_at_256_open_files() -> None:
    await _flooded(256, ["127.66.6.6"] * 1000, limits.HOME.inbound_per_ip)


@pytest.mark.slow
async def test_scenario_19_ten_thousand_connects_from_one_address_at_256_open_files() -> None:
    await _flooded(256, ["127.66.6.6"] * 10_000, limits.HOME.inbound_per_ip)


@pytest.mark.slow
async def test_scenario_19_ten_thousand_connects_from_one_subnet_at_256_open_files() -> None:
    sources = [f"127.66.6.{number % 250 + 1}" for number in range(10_000)]
    await _flooded(256, sources, limits.HOME.inbound_per_subnet)


async def test_scenario_13_without_a_free_file_new_connections_wait_and_nothing_ends() -> None:
    """The process has used its files for something else; afterwards it serves again."""
    one, honest = new_network(), new_network()
    async with started(one, honest):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = len(os.listdir("/proc/self/fd"))
        raws = [socket.socket() for _ in range(12)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 12 + 2, hard))
        try:
            for raw in raws:  # accepting needs files that are not there
                raw.setblocking(False)
                with suppress(BlockingIOError):
                    raw.connect(("127.0.0.1", int(one.listen_addresses()[0].split("/")[4])))
            await trio.sleep(0.3)
            assert await ask(honest, one.peer, b"alive") == b"alive"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for raw in raws:
            raw.close()
        late = new_network()
        async with late.running([LOCAL], list(one.listen_addresses())):
            await until(lambda: len(one.peers()) == 2)


async def test_a_crowded_network_gives_way_to_a_newcomer_of_another() -> None:
    """Who came first must not keep everybody else out."""
    profile = limits.Profile(connections=12, target_peers=2, inbound_per_ip=8)
    one = new_network(profile=profile)
    async with one.running(["/ip4/127.1.0.1/tcp/0"], []):
        [address] = one.listen_addresses()
        crowd = [dial(f"127.66.0.{n + 1}", address) for n in range(profile.inbound)]
        await until(lambda: len(one._running().swarm._inbound) == len(crowd))
        assert not any(map(is_cut, crowd))
        newcomer = new_network()
        async with newcomer.running(["/ip4/127.2.0.1/tcp/0"], [address]):
            await until(lambda: len(one.peers()) == 1, 5)
            assert one.traffic.evicted_connections == 1
            assert [is_cut(raw) for raw in crowd] == [False] * (len(crowd) - 1) + [True]
        for raw in crowd:
            raw.close()


async def test_places_are_kept_for_peers_that_we_choose() -> None:
    profile = limits.Profile(connections=8, target_peers=2, inbound_per_ip=8)
    one, friend = new_network(profile=profile), new_network()
    async with one.running(["/ip4/127.1.0.1/tcp/0"], []), friend.running([LOCAL], []):
        raws = [dial("127.66.0.1", one.listen_addresses()[0]) for _ in range(8)]
        await until(lambda: sum(map(is_cut, raws)) == 8 - profile.inbound == 2)
        await one.connect(friend.listen_addresses()[0])
        assert await ask(one, friend.peer, b"chosen") == b"chosen"
        for raw in raws:
            raw.close()


def _open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


async def test_scenario_3_a_connection_that_goes_dead_costs_no_more_than_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A cable pulled after the handshake: the request fails in time, and nothing is left of it."""
    monkeypatch.setattr(limits, "PING_INTERVAL_S", 0.6)
    monkeypatch.setattr(limits, "PING_TIMEOUT_S", 1.0)
    passive = replace(PROFILE, target_peers=0)  # or they would meet again by the direct way
    one, other = new_network(profile=passive), new_network(profile=passive)

    async def cycle() -> None:
        async with proxy_to(one.listen_addresses()[0]) as proxy:
            await other.connect(proxy.address(one.listen_addresses()[0]))
            stream = await other.open_stream(one.peer, ECHO)
            proxy.is_open = False
            began = trio.current_time()
            with pytest.raises(RemoteError):
                await stream.write_all(b"anybody there?")
                await stream.read_some(1)
            assert trio.current_time() - began < 0.6 + 1.0 + 1.0
            await until(lambda: other.peers() == one.peers() == [], 5)

    async with one.running([LOCAL], []), other.running([LOCAL], []):
        await cycle()  # what is begun once
        await trio.sleep(0.5)
        files, tasks = _open_files(), trio.lowlevel.current_statistics().tasks_living
        await cycle()
        await until(lambda: _open_files() <= files, 5)
        await until(lambda: trio.lowlevel.current_statistics().tasks_living <= tasks, 5)


async def test_scenario_4_slow_lorises_are_cut_at_the_deadline_and_cost_no_memory() -> None:
    """One byte at a time, so that no single read ever waits long."""
    honest = new_network(profile=limits.HOME)
    async with victim(256) as address, honest.running(["/ip4/127.200.0.1/tcp/0"], []):
        peer = await honest.connect(address)
        await trio.sleep(1.0)  # identify is over, and gossip has begun
        before = await stats(honest, peer)
        waiting = {dial(f"127.{66 + n // 2}.6.6", address) for n in range(18)}
        began = trio.current_time()
        for byte in b"\x13/multistream/1.0.0\n\x07/noise\n" + bytes(20):
            for raw in list(waiting):
                with suppress(OSError):
                    raw.send(bytes([byte]))
                if is_cut(raw, said=4096):
                    waiting.remove(raw)
                    raw.close()
            if not waiting:
                break
            await trio.sleep(0.2)
        took_s = trio.current_time() - began
        assert not waiting
        assert limits.UPGRADE_S - 0.5 < took_s < limits.UPGRADE_S + 2
        with trio.fail_after(10):
            while (after := await stats(honest, peer))["tasks"] > before["tasks"]:
                await trio.sleep(0.2)
        assert after["resident_bytes"] - before["resident_bytes"] < 2**20


async def test_scenario_5_one_byte_slices_change_nothing_but_the_time() -> None:
    one, other = new_network(), new_network()
    inbox, payload = Inbox(one), random.Random(5).randbytes(3000)
    async with (
        one.running([LOCAL], []),
        other.running([LOCAL], []),
        proxy_to(one.listen_addresses()[0]) as proxy,
    ):
        proxy.fault = sliced
        await other.connect(proxy.address(one.listen_addresses()[0]))
        assert await ask(other, one.peer, payload) == payload
        await until(lambda: subscribers(other) == 1)
        await other.publish("t", payload)
        await until(lambda: inbox.got == [payload])
        assert one.traffic.handler_errors == one.traffic.malformed_rpcs == 0


async def test_scenario_5_a_ping_in_one_byte_slices_is_answered_whole() -> None:
    """The library once took what had come of a ping for all of it."""
    one, other = new_network(), new_network()
    async with started(one, other):
        stream = await other.open_stream(one.peer, "/ipfs/ping/1.0.0")
        for _ in range(2):
            ping, pong = random.Random(5).randbytes(32), b""
            for byte in ping:
                await stream.write_all(bytes([byte]))
                await trio.sleep(0.001)
            with trio.fail_after(5):
                while len(pong) < len(ping):
                    pong += await stream.read_some(32)
            assert pong == ping
        await stream.close()


async def test_scenario_5_bytes_that_come_in_lumps_change_nothing() -> None:
    """What was written in many pieces arrives in few: several messages, and parts of them, at once."""
    one, other = new_network(), new_network()
    inbox, payloads = Inbox(one), [random.Random(n).randbytes(100 + n) for n in range(30)]
    async with (
        one.running([LOCAL], []),
        other.running([LOCAL], []),
        proxy_to(one.listen_addresses()[0]) as proxy,
    ):
        proxy.lump_s = 0.05
        await other.connect(proxy.address(one.listen_addresses()[0]))
        await until(lambda: subscribers(other) == 1)
        for payload in payloads:
            await other.publish("t", payload)
        assert await ask(other, one.peer, b"".join(payloads)) == b"".join(payloads)
        await until(lambda: inbox.got == payloads)
        assert one.traffic.handler_errors == one.traffic.malformed_rpcs == 0


async def test_scenario_6_a_wrong_bit_ends_the_connection_and_costs_nobody_score() -> None:
    """It is the network's fault, and the next connection works."""
    one, other = new_network(), new_network()
    flips = random.Random(6)
    async with one.running([LOCAL], []), other.running([LOCAL], []):
        async with proxy_to(one.listen_addresses()[0]) as proxy:
            address = proxy.address(one.listen_addresses()[0])

            def corrupted(chunk: bytes) -> Iterable[bytes]:
                wrong = bytearray(chunk)
                wrong[flips.randrange(len(wrong))] ^= 1 << flips.randrange(8)
                yield bytes(wrong)

            for _ in range(3):
                proxy.fault = lambda chunk: (chunk,)
                await other.connect(address)
                assert await ask(other, one.peer, b"x" * 5000) == b"x" * 5000
                proxy.fault = corrupted
                with pytest.raises(RemoteError), trio.fail_after(10):
                    while True:
                        await ask(other, one.peer, b"x" * 5000)
                await until(lambda: other.peers() == [] == one.peers(), 10)
        assert not one.is_banned(other.peer) and not other.is_banned(one.peer)
        await other.connect(one.listen_addresses()[0])
        assert one.peers()[0].score == other.peers()[0].score == 0


@pytest.mark.parametrize("length", [2**16, 2**31, 2**62], ids=["64 KiB", "2 GiB", "4 EiB"])
async def test_scenario_21_a_length_named_before_the_handshake_is_not_believed(length: int) -> None:
    """The library would allocate it, and read on for as long as the handshake may last."""
    one = new_network()
    async with one.running([LOCAL], []):
        raw = dial("127.0.0.1", one.listen_addresses()[0])
        raw.send(b"\x13/multistream/1.0.0\n" + encode_uvarint(length))
        began = trio.current_time()
        sent = 0
        raw.setblocking(False)
        while trio.current_time() - began < 2:
            with suppress(BlockingIOError):
                try:
                    sent += raw.send(bytes(65536))
                except OSError:
                    break  # cut
            await trio.sleep(0.001)
        assert trio.current_time() - began < 1
        assert sent < 16 * 2**20
        raw.close()


async def test_scenario_21_nor_is_one_named_on_a_stream() -> None:
    one, other = new_network(), new_network()
    async with started(one, other):
        connection = other._running().swarm.get_connections()[0]
        stream = await connection.muxed_conn.open_stream()
        await stream.write(b"\x13/multistream/1.0.0\n" + encode_uvarint(2**40))
        with pytest.raises(Exception), trio.fail_after(2):  # noqa: B017  whatever the library raises
            while True:
                await stream.write(bytes(60_000))
        assert await ask(other, one.peer, b"alive") == b"alive"
        assert one.traffic.handler_errors == 0
