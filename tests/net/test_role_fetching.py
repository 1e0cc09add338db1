"""Getting committed batches from holders that are slow: whom it delays, and for how long."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from msgspec import Raw

from primed.node.roles.fetching import AT_ONCE, Fetches, Patience, time_for_batch
from primed.p2p.errors import RemoteError
from primed.p2p.network import Handler, Stream
from primed.protocols.disk import inline
from primed.protocols.framing import Framed, decode, encode
from primed.protocols.limits import DATA_FRAME_BYTES, MIB
from primed.protocols.rollouts import PROTOCOL
from primed.protocols.rollouts import messages as wire
from primed.protocols.rpc import ResponseHead, request_heads
from primed.verify.cases import Case
from primed.verify.digests import content_digest, digest, u64
from primed.verify.statements import Committed, Receipt

from .memory_network import Fabric
from .protocol_samples import RUN
from .test_protocol_rollouts import ROOT, Node, a_batch

pytestmark = pytest.mark.trio
SLOW_BYTES_PER_S = 33_000  # a little above what a stream must carry


def holder_at(bytes_per_s: float, batch: bytes) -> Handler:
    """Who answers every request with this batch, at that rate."""

    async def give(stream: Stream) -> None:
        frames = Framed(stream)
        try:
            while data := await frames.read(DATA_FRAME_BYTES, first_byte_s=600):
                number = decode(request_heads, data).id
                body = Raw(encode(wire.Found()))
                await frames.write(encode(ResponseHead(number, "ok", 0, "", len(batch), body)))
                for start in range(0, len(batch), DATA_FRAME_BYTES):
                    await trio.sleep(DATA_FRAME_BYTES / bytes_per_s)
                    await frames.write(batch[start : start + DATA_FRAME_BYTES])
        except RemoteError:
            pass  # the asker has had enough

    return give


def case_of(
    number: int, worker: bytes, batch: bytes, *holders: bytes, learner: bytes = bytes(38)
) -> Case:
    committed = Committed(
        learner=learner,
        counter=number,
        version=bytes(32),
        seen=bytes(32),
        cut=0,
        cut_root=RUN,
        batch=content_digest(batch),
        size_bytes=len(batch),
        root=ROOT,
        rollouts=1,
        chunks=1,
        tokens=1,
        receipts=tuple(Receipt(holder, bytes(64)) for holder in holders),
    )
    return Case(digest("case", u64(number)), worker, number, committed, seen=0.0)


@asynccontextmanager
async def fabric(folder: Path) -> AsyncIterator[tuple[Fabric, Node, Node, Fetches]]:
    """(fabric, the asker, an honest holder, the asker's fetches)"""
    with inline():
        async with trio.open_nursery() as nursery:
            joined = Fabric(nursery)
            asker, honest = (Node(joined.node(seed), folder / str(seed)) for seed in (1, 2))
            joined.link_all()
            yield joined, asker, honest, Fetches(asker.network.peer, asker.rollouts)
            nursery.cancel_scope.cancel()


def slow_holder(joined: Fabric, asker: Node, seed: int, bytes_per_s: float, batch: bytes) -> bytes:
    network = joined.node(seed)
    network.handle(PROTOCOL, holder_at(bytes_per_s, batch))
    joined.link(asker.network, network)
    return network.peer


@pytest.mark.parametrize(("workers", "holders"), [(1, AT_ONCE), (2 * AT_ONCE, 1)])
async def test_slow_holders_delay_no_others_and_their_batches_have_an_end(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, workers: int, holders: int
) -> None:
    async with fabric(tmp_path) as (joined, asker, honest, fetches):
        big = bytes(8 * MIB)
        slow = [
            slow_holder(joined, asker, 3 + seed, SLOW_BYTES_PER_S, big) for seed in range(holders)
        ]
        ended: list[str] = []

        async def fetch(case: Case) -> None:
            with pytest.raises(RemoteError) as caught:
                await fetches.fetch(case, Patience(30))
            ended.append(caught.value.reason)

        async with trio.open_nursery() as nursery:
            for number in range(2 * AT_ONCE):
                name = bytes([number % workers]) * 38
                case = case_of(number, name, big, slow[number % holders])
                nursery.start_soon(fetch, case)
            await trio.sleep(1)
            good = a_batch(tmp_path, 100_000)
            await honest.push(honest, good)
            began = trio.current_time()
            case = case_of(99, honest.network.peer, good.read_bytes(), honest.network.peer)
            await fetches.fetch(case, Patience(30))
            assert trio.current_time() < began + 1
        assert len(ended) == 2 * AT_ONCE and all("did not give it" in each for each in ended)
        assert trio.current_time() < 2 * AT_ONCE * time_for_batch(len(big)) + 10
        assert [path.name for path in asker.folder.iterdir()] == [case.body.batch.hex()]


async def test_a_large_batch_comes_over_a_line_at_home(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with fabric(tmp_path) as (joined, asker, _, fetches):
        batch = bytes(10_000_000)
        home = slow_holder(joined, asker, 3, 300_000, batch)
        path = await fetches.fetch(case_of(0, home, batch, home), Patience(30))
        assert path.read_bytes() == batch and trio.current_time() > 30


async def test_after_a_slow_holder_the_next_is_asked_and_from_then_on_first(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with fabric(tmp_path) as (joined, asker, honest, fetches):
        slow = slow_holder(joined, asker, 3, SLOW_BYTES_PER_S, bytes(2 * MIB))
        took = []
        for counter in range(2):
            path = a_batch(tmp_path, 2 * MIB, counter)
            await honest.push(honest, path, counter)
            began = trio.current_time()
            batch = path.read_bytes()
            case = case_of(counter, honest.network.peer, batch, slow, honest.network.peer)
            await fetches.fetch(case, Patience(30), each_s=24)
            took.append(round(trio.current_time() - began))
        assert took == [24, 0]


async def test_waiting_for_a_turn_costs_a_batch_none_of_its_time(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with fabric(tmp_path) as (joined, asker, _, fetches):
        big = bytes(8 * MIB)
        slow = slow_holder(joined, asker, 3, SLOW_BYTES_PER_S, big)
        patiences = [Patience(60), Patience(60)]

        async def fetch(number: int) -> None:
            with pytest.raises(RemoteError):
                case = case_of(number, slow, big, slow)
                await fetches.fetch(case, patiences[number], each_s=40)

        async with trio.open_nursery() as nursery:
            for number in range(2):
                nursery.start_soon(fetch, number)
        assert trio.current_time() > 60
        assert sorted(patience.is_over for patience in patiences) == [False, True]
