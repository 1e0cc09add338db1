"""Pushing a batch to holders, of whom some are silent, slow or refuse."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from primed.node.roles.pushing import AT_ONCE, Holders, Push
from primed.p2p import peerid
from primed.p2p.network import Stream
from primed.protocols.disk import inline
from primed.protocols.rollouts import PROTOCOL
from primed.training.messages import Generated
from primed.verify.digests import content_digest

from .memory_network import Fabric
from .test_protocol_rollouts import ROOT, Node, a_batch

pytestmark = pytest.mark.trio


async def say_nothing(stream: Stream) -> None:
    while await stream.read_some(65536):
        pass


class SlowStream:
    """What arrives is read at a rate."""

    def __init__(self, stream: Stream, bytes_per_s: float) -> None:
        self._stream = stream
        self._bytes_per_s = bytes_per_s
        self.peer = stream.peer
        self.write_all, self.close, self.reset = stream.write_all, stream.close, stream.reset

    async def read_some(self, max_bytes: int) -> bytes:
        data = await self._stream.read_some(max_bytes)
        await trio.sleep(len(data) / self._bytes_per_s)
        return data


class Swarm:
    """A worker, holders as they should be, and some that say nothing."""

    def __init__(self, nursery: trio.Nursery, folder: Path, good: int, silent: int) -> None:
        self.folder = folder
        fabric = Fabric(nursery)
        self.worker = Node(fabric.node(1), folder / "worker")
        self.good = [Node(fabric.node(10 + i), folder / str(i)) for i in range(good)]
        silenced = [fabric.node(100 + i) for i in range(silent)]
        for network in silenced:
            network.handle(PROTOCOL, say_nothing)
        self.silent = [network.peer for network in silenced]
        fabric.link_all()
        self.holders = Holders(self.worker.rollouts)
        self.order = [*self.silent, *(node.network.peer for node in self.good)]

    def push(self, counter: int, size_bytes: int = 1000) -> Push:
        path = a_batch(self.folder, size_bytes, counter)
        made = Generated(
            id=0,
            counter=counter,
            version=bytes(32),
            path=str(path),
            batch=content_digest(path.read_bytes()),
            size_bytes=size_bytes,
            root=ROOT,
            rollouts=1,
            chunks=1,
            tokens=1,
            reward_mean=0.0,
            seconds=0.0,
        )
        return Push(self.holders, made, lambda: self.order)

    async def pushed(self, counter: int, size_bytes: int = 1000) -> tuple[int, int]:
        """(seconds that it took, receipts)"""
        began, push = trio.current_time(), self.push(counter, size_bytes)
        await push.run()
        return round(trio.current_time() - began), len(push.receipts)


@asynccontextmanager
async def swarm(folder: Path, good: int, silent: int = 0) -> AsyncIterator[Swarm]:
    with inline(), trio.fail_after(600):
        async with trio.open_nursery() as nursery:
            yield Swarm(nursery, folder, good, silent)
            nursery.cancel_scope.cancel()


async def test_a_silent_holder_costs_one_batch_some_seconds_and_the_next_nothing(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with swarm(tmp_path, good=2, silent=1) as made:
        took = [await made.pushed(counter) for counter in range(3)]
        assert took[0][0] in (5, 6, 7) and took[0][1] == 2 and took[1:] == [(0, 2), (0, 2)]


async def test_without_another_holder_one_receipt_is_enough(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with swarm(tmp_path, good=1, silent=1) as made:
        took = [await made.pushed(counter) for counter in range(2)]
        assert took[0][0] in (5, 6, 7) and took[0][1] == 1 and took[1] == (0, 1)
        await trio.sleep(300)
        assert (await made.pushed(3))[0] in (5, 6, 7)  # it may have come back: it is asked again


async def test_many_silent_holders_are_passed(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with swarm(tmp_path, good=2, silent=3 * AT_ONCE) as made:
        seconds, receipts = await made.pushed(0)
        assert receipts == 2 and seconds <= 40
        assert await made.pushed(1) == (0, 2)


async def test_holders_that_are_all_silent_are_asked_in_turn_at_their_leisure(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with swarm(tmp_path, good=0, silent=2 * AT_ONCE) as made:
        push = made.push(0)
        with trio.move_on_after(100):
            await push.run()
        assert not push.receipts and 20 <= made.worker.network.streams_opened <= 40
        assert push.told().startswith("0 of 1 receipts here; ")


async def test_who_is_only_slow_for_the_size_is_waited_for(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with swarm(tmp_path, good=3) as made:
        for node in made.good[:2]:
            serve = node.network.handlers[PROTOCOL]

            async def slowly(stream: Stream, serve=serve) -> None:  # type: ignore[no-untyped-def]
                await serve(SlowStream(stream, 200_000))

            node.network.handle(PROTOCOL, slowly)
        seconds, receipts = await made.pushed(0, 8_000_000)
        assert seconds >= 40 and receipts == 2
        assert [len(list(node.folder.iterdir())) for node in made.good] == [2, 2, 0]


async def test_who_refused_is_asked_again_and_status_names_who_is_waited_for(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with swarm(tmp_path, good=1, silent=1) as made:
        push, good = made.push(0), made.good[0]
        good.refuse = "not now"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(push.run)
            await trio.sleep(2.5)
            assert push.told() == (
                f"0 of 2 receipts here; {peerid.short(made.silent[0])}: no receipt for 2 s; "
                f"{peerid.short(good.network.peer)}: denied: not now"
            )
            good.refuse = ""
            await trio.sleep(1)
            assert list(push.receipts) == [good.network.peer]
