"""Hosts as wholes: what they accept, what they leave behind, how they notice the dead."""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import replace

import pytest
import trio
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.kad_dht.pb.kademlia_pb2 import Message as Kad
from libp2p.kad_dht.pb.kademlia_pb2 import Record
from libp2p.utils import encode_varint_prefixed

from primed.p2p import limits
from primed.p2p.errors import LocalError, RemoteError, UserError

from .hosts import ECHO, LOCAL, PROFILE, ask, free_port, new_network, started, until

pytestmark = pytest.mark.trio


def _open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


async def _raw_connection(address: str) -> trio.SocketStream:
    port = int(address.split("/tcp/")[1].split("/")[0])
    return await trio.open_tcp_stream("127.0.0.1", port)


def _multistream(line: str) -> bytes:
    return bytes([len(line) + 1]) + line.encode() + b"\n"


async def test_trap_11_twenty_starts_and_stops_leave_no_socket_task_or_thread() -> None:
    """Scenario 14, in small."""

    async def cycle() -> None:
        one, other = new_network(), new_network()
        async with started(one, other):
            await ask(other, one.peer, b"hello")

    await cycle()  # what is loaded once
    files, threads = _open_files(), threading.active_count()
    tasks = trio.lowlevel.current_statistics().tasks_living
    for _ in range(20):
        await cycle()
    await until(lambda: _open_files() <= files)
    await until(lambda: threading.active_count() <= threads)
    await until(lambda: trio.lowlevel.current_statistics().tasks_living <= tasks)


@pytest.mark.parametrize("security", ["/plaintext/2.0.0", "/secio/1.0.0", "/tls/1.0.0"])
async def test_trap_8_only_noise_is_accepted(security: str) -> None:
    network = new_network()
    async with network.running([LOCAL], []):
        async with await _raw_connection(network.listen_addresses()[0]) as raw:
            await raw.send_all(_multistream("/multistream/1.0.0") + _multistream(security))
            answer = b""
            with trio.fail_after(5):
                while b"na\n" not in answer:
                    chunk = await raw.receive_some(1024)
                    assert chunk, answer
                    answer += chunk
        assert network.peers() == []


async def test_garbage_and_silence_instead_of_a_handshake_harm_nobody() -> None:
    one, other = new_network(), new_network()
    async with started(one, other):
        address = one.listen_addresses()[0]
        async with await _raw_connection(address) as loud, await _raw_connection(address):
            await loud.send_all(os.urandom(100_000))
            assert await ask(other, one.peer, b"alive") == b"alive"


_LIBRARY_PROTOCOLS = (
    "/ipfs/id/push/1.0.0",
    "/ipfs/id/1.0.0",
    "/ipfs/ping/1.0.0",
    "/ipfs/kad/1.0.0",
    "/meshsub/1.2.0",
    "/meshsub/1.1.0",
)


@pytest.mark.parametrize("protocol", _LIBRARY_PROTOCOLS)
async def test_garbage_on_the_library_s_protocols_ends_nothing(protocol: str) -> None:
    one, other, friend = new_network(), new_network(), new_network()
    randomness = random.Random(protocol)
    junk = [
        Identify(listen_addrs=[b"\xff" * 9, b"", b"\x04\x01"], protocols=["x" * 9]),
        Kad(type=Kad.FIND_NODE, key=b"\x01", closerPeers=[Kad.Peer(id=b"?", addrs=[b"\xff"])]),
        Kad(type=Kad.ADD_PROVIDER, key=b"k", providerPeers=[Kad.Peer(id=b"", addrs=[b"\x04"])]),
        Kad(type=Kad.PUT_VALUE, key=b"k", record=Record(key=b"other", value=b"v" * 99)),
    ]
    messages = [encode_varint_prefixed(message.SerializeToString()) for message in junk]
    messages += [randomness.randbytes(size) for size in (1, 2, 40, 5000)]
    async with started(one, other, friend):
        for message in messages:
            with suppress(RemoteError):
                stream = await other.open_stream(one.peer, protocol)
                await stream.write_all(message)
                await stream.close()
        await trio.sleep(0.1)
        assert await ask(friend, one.peer, b"alive") == b"alive"
        await one.find_providers(b"k", 3)


async def test_inbound_connections_are_bounded_per_ip_and_places_are_given_back() -> None:
    """The library keeps a place taken for ever; three rounds would fill two places."""
    one = new_network(profile=limits.Profile(inbound_per_ip=2))
    async with one.running([LOCAL], []):
        for _ in range(3):
            raws = [await _raw_connection(one.listen_addresses()[0]) for _ in range(2)]
            await trio.sleep(0.1)
            async with await _raw_connection(one.listen_addresses()[0]) as third:
                with trio.fail_after(2):
                    assert await third.receive_some(100) == b""
            for raw in raws:
                await raw.aclose()
            await trio.sleep(0.2)
        other = new_network()
        async with other.running([LOCAL], list(one.listen_addresses())):
            await until(lambda: len(one.peers()) == 1)


async def test_a_taken_port_is_told_with_what_to_do() -> None:
    """The library shares ports (SO_REUSEPORT): the second daemon would get half of the peers."""
    one, other = new_network(), new_network()
    address = f"/ip4/127.0.0.1/tcp/{free_port()}"
    async with one.running([address], []):
        with pytest.raises(UserError, match="cannot listen") as caught:
            async with other.running([address], []):
                pass
        assert "port" in caught.value.hint
    async with other.running([address], []):
        assert other.listen_addresses()[0].startswith(address)


@pytest.mark.parametrize("wrong", ["nonsense", "/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.4/udp/1/p2p/x"])
async def test_a_wrong_bootstrap_address_is_a_user_error(wrong: str) -> None:
    with pytest.raises(UserError):
        async with new_network().running([LOCAL], [wrong]):
            pass


async def test_exceptions_of_the_body_come_out_as_they_are() -> None:
    with pytest.raises(ZeroDivisionError):
        async with new_network().running([LOCAL], []):
            _ = 1 // 0
    network = new_network()
    with pytest.raises(LocalError):
        network.listen_addresses()
    async with network.running([LOCAL], []):
        with trio.move_on_after(0.1) as scope:
            await trio.sleep_forever()
        assert scope.cancelled_caught
    async with network.running([LOCAL], []):  # it can run again
        assert network.state()[0] == "alone"


async def test_cancelling_from_outside_takes_everything_down() -> None:
    async def until_cancelled() -> None:
        one, other = new_network(), new_network()
        with trio.CancelScope() as scope:
            async with started(one, other):
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught

    await until_cancelled()
    files = _open_files()
    tasks = trio.lowlevel.current_statistics().tasks_living
    for _ in range(3):
        await until_cancelled()
    await until(lambda: _open_files() <= files)
    await until(lambda: trio.lowlevel.current_statistics().tasks_living <= tasks)


async def test_the_library_says_nothing_at_the_default_level(
    capfd: pytest.CaptureFixture[str],
) -> None:
    one, other = new_network(), new_network()
    handlers = list(logging.getLogger().handlers)
    async with started(one, other):
        await ask(other, one.peer, b"hello")
    assert list(logging.getLogger().handlers) == handlers
    assert capfd.readouterr().err == ""


_CHILD = """
import sys, trio
from primed.p2p.host import Libp2pNetwork
from primed.p2p.identity import Identity
async def main():
    network = Libp2pNetwork(Identity.generate())
    async with network.running(["/ip4/127.0.0.1/tcp/0"], [sys.argv[1]]):
        await trio.sleep_forever()
trio.run(main)
"""


async def test_a_stopped_process_is_noticed_and_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sockets stay open; only the missing answer to a ping tells."""
    monkeypatch.setattr(limits, "PING_INTERVAL_S", 0.5)
    monkeypatch.setattr(limits, "PING_TIMEOUT_S", 0.5)
    one = new_network(profile=PROFILE)
    async with one.running([LOCAL], []):
        child = await trio.lowlevel.open_process(
            [sys.executable, "-c", _CHILD, one.listen_addresses()[0]]
        )
        try:
            await until(lambda: len(one.peers()) == 1, 30)
            await trio.sleep(1.5)
            assert len(one.peers()) == 1  # alive, it answers
            child.send_signal(signal.SIGSTOP)
            await until(lambda: one.peers() == [], 5)
        finally:
            child.kill()
            await child.wait()


async def test_a_peer_that_comes_back_while_it_is_hung_up_on_can_still_be_banned() -> None:
    """The library's close_peer forgets connections that come meanwhile (py-libp2p 0.8.1)."""
    strict, other = new_network(), new_network()
    async with started(strict, other):
        strict.penalise(other.peer, 25, "in this test")
        await trio.sleep(0.03)
        await other.connect(strict.listen_addresses()[0])
        await trio.sleep(0.5)  # the library drops the peer's entry 200 ms after the first
        assert await ask(other, strict.peer, b"still here") == b"still here"
        strict.penalise(other.peer, 50, "in this test")
        await until(lambda: not other.peers() and not strict.peers())
        with pytest.raises(RemoteError):
            await other.open_stream(strict.peer, ECHO)


async def test_a_peer_that_was_cut_off_is_not_dialled_by_a_lookup_in_the_dht() -> None:
    """The library asks all peers it ever heard of, as long as its table is nearly empty."""
    strict = new_network()
    other = new_network(profile=replace(PROFILE, target_peers=0))  # does not come back by itself
    async with strict.running([LOCAL], []), other.running([LOCAL], []):
        await other.connect(strict.listen_addresses()[0])
        await until(lambda: bool(strict._running().discovery.addresses_of(other.peer)))
        strict.penalise(other.peer, 25, "in this test")
        await until(lambda: not strict.peers() and not other.peers())
        await strict._running().discovery.refresh()
        assert strict.peers() == []
        with pytest.raises(RemoteError, match="low score"):
            await strict.open_stream(other.peer, ECHO)


@pytest.mark.parametrize("after_s", [0.0, 0.002, 0.005, 0.01, 0.02])
async def test_a_start_that_is_cancelled_ends(after_s: float) -> None:
    """Wherever it was: what is shielded for an orderly stop must be told of it."""
    network = new_network()
    with trio.move_on_after(after_s):
        async with network.running([LOCAL], []):
            await trio.sleep_forever()
    assert not network.is_running
    async with network.running([LOCAL], []):
        assert network.listen_addresses()
