"""Conversations of the tests of the bulk lane: the asker names a count of bytes, and gets them."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from primed.p2p.host import Libp2pNetwork
from primed.p2p.network import BulkChannel

from .hosts import until

PURPOSE = "test"
CHUNK = bytes(range(256)) * 1024


def serve_bytes(channel: BulkChannel) -> None:
    head = bytearray(8)
    while channel.recv_into(head):
        left = int.from_bytes(head, "big")
        while left > 0:
            channel.send_all(CHUNK[:left])
            left -= len(CHUNK)


def get_bytes(count: int) -> Callable[[BulkChannel], bytes]:
    def get(channel: BulkChannel) -> bytes:
        channel.send_all(count.to_bytes(8, "big"))
        buffer = bytearray(count)
        assert channel.recv_into(buffer)
        return bytes(buffer)

    return get


def expected(count: int) -> bytes:
    return (CHUNK * (count // len(CHUNK) + 1))[:count]


async def fetch(network: Libp2pNetwork, peer: bytes, count: int = 1000) -> None:
    """A conversation that must succeed."""
    with trio.fail_after(20):
        got = await network.bulk.converse(peer, PURPOSE, get_bytes(count))
    assert got == expected(count)


async def ready(*networks: Libp2pNetwork) -> None:
    """Everybody knows everybody, and what they speak."""

    def all_are() -> bool:
        others = {network.peer for network in networks}
        return all(
            {info.peer for info in network.peers() if info.lane == "bulk"}
            >= others - {network.peer}
            for network in networks
        )

    await until(all_are)


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Threads that work and open sockets are as many after as before."""
    before = busy_threads(), sockets()
    yield
    gc.collect()
    assert busy_threads() <= before[0]
    assert sockets() <= before[1]


def busy_threads() -> int:
    """Threads, less trio's idle ones (it keeps them for a while under this name)."""
    return sum(not t.name.startswith("Trio thread") for t in threading.enumerate())


def sockets() -> int:
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
        except OSError:
            pass
    return found
