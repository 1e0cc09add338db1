"""Shards on their way through gossip: none is lost for lack of room, few are sent twice."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection

import pytest
import trio
import trio.testing
from libp2p.peer.id import ID

from primed.p2p import limits
from primed.p2p.outbox import Letter, Outbox
from primed.p2p.shardflow import Shardflow

pytestmark = pytest.mark.trio
SHARD_BYTES = 256 * 1024
PEERS = [ID(b"peer%d" % number) for number in range(6)]


def shard(number: int) -> Letter:
    return Letter(bytes(SHARD_BYTES), b"%d" % number, SHARD_BYTES)


def drained(box: Outbox, unwanted: Collection[bytes] = ()) -> list[bytes]:
    taken = []
    while (letter := box.take_large(lambda message_id: message_id in unwanted)) is not None:
        taken.append(letter.message_id)
    return taken


async def test_a_full_queue_is_waited_for_and_nothing_is_dropped(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "GOSSIP_QUEUE_BYTES", 3 * SHARD_BYTES)
    box, taken = Outbox(random.Random(1)), list[bytes]()

    async def send() -> None:
        for number in range(20):
            assert await box.put_in_time(shard(number))
            assert box.waiting_bytes <= 3 * SHARD_BYTES

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        while len(taken) < 20:
            await trio.sleep(0.5)
            if letter := box.take_large(lambda _: False):
                taken.append(letter.message_id)
    assert sorted(taken) == sorted(b"%d" % number for number in range(20))


async def test_several_that_wait_for_room_all_get_it(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "GOSSIP_QUEUE_BYTES", SHARD_BYTES)
    box, taken = Outbox(random.Random(1)), list[bool]()

    async def send(number: int) -> None:
        taken.append(await box.put_in_time(shard(number)))

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(send, number)
        for _ in range(4):
            await trio.sleep(0.5)
            assert box.take_large(lambda _: False) is not None
    assert taken == 4 * [True]


async def test_a_peer_that_takes_nothing_is_not_waited_for_for_ever(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "GOSSIP_QUEUE_BYTES", SHARD_BYTES)
    box = Outbox()
    assert await box.put_in_time(shard(1))
    began = trio.current_time()
    assert not await box.put_in_time(shard(2))
    assert trio.current_time() - began == pytest.approx(limits.GOSSIP_ROOM_S)


async def test_shards_leave_in_random_order_those_that_nobody_has_first() -> None:
    orders = set()
    for seed in range(4):
        box = Outbox(random.Random(seed))
        for number in range(40):
            box.put(shard(number)._replace(is_first=number >= 30))
        order = drained(box)
        assert {int(name) for name in order[:10]} == set(range(30, 40))
        orders.add(tuple(order))
    assert len(orders) == 4


async def test_what_a_peer_has_meanwhile_is_dropped_when_its_turn_comes() -> None:
    box = Outbox()
    for number in range(10):
        box.put(shard(number))
    assert len(drained(box, unwanted=[b"%d" % number for number in range(7)])) == 3
    assert box.waiting_bytes == 0


class Router:
    """Outboxes of real peers, by name, and the tasks of a nursery."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.boxes = {peer: Outbox(random.Random(1)) for peer in PEERS}
        self.flow = Shardflow(self, nursery.start_soon, random.Random(1))

    def outbox(self, peer_id: ID) -> Outbox | None:
        return self.boxes.get(peer_id)

    def outboxes(self) -> Collection[Outbox]:
        return self.boxes.values()

    def holders(self, wanted: Callable[[Letter], bool]) -> list[ID]:
        return [
            p for p, box in self.boxes.items() for each in box._first + box._large if wanted(each)
        ]


async def test_an_own_shard_has_one_first_receiver_and_who_has_it_by_then_gets_no_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        router = Router(nursery)
        for number in range(12):
            await router.flow.send_own(list(PEERS), shard(number))
        firsts = router.holders(lambda letter: letter.is_first)
        assert len(firsts) == 12 and {firsts.count(peer) for peer in PEERS} == {2}
        for peer, box in router.boxes.items():
            router.flow.holders.note(peer, drained(box))
        for peer in PEERS[:4]:  # the first receivers passed all on to these
            router.flow.holders.note(peer, [b"%d" % number for number in range(12)])
        await trio.sleep(60)
        rest = router.holders(lambda letter: True)
        assert set(rest) == set(PEERS[4:]) and len(rest) == 2 * 10


async def test_a_shard_of_another_goes_on_to_who_lacks_it_and_few_are_held(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HELD_MESSAGES", 3)
    async with trio.open_nursery() as nursery:
        router = Router(nursery)
        assert all(router.flow.send_on(list(PEERS), shard(number)) for number in range(3))
        await trio.testing.wait_all_tasks_blocked()
        assert not router.flow.send_on(list(PEERS), shard(3))
        router.flow.holders.note(PEERS[0], [b"0", b"1", b"2"])
        await trio.sleep(10)
        assert len(router.holders(lambda letter: True)) == 3 * 5
        assert PEERS[0] not in router.holders(lambda letter: True)
        assert router.flow.send_on(list(PEERS), shard(3))


async def test_what_we_alone_are_to_spread_goes_at_once_and_other_copies_wait_for_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        router = Router(nursery)
        router.flow.send_on(list(PEERS), shard(0))
        router.flow.send_on(list(PEERS), shard(1), is_ours_to_spread=True)
        await trio.sleep(limits.HOLD_BETWEEN_S * len(PEERS) + 0.1)
        assert router.holders(lambda letter: True) == list(PEERS)  # only the one, and to everybody
        assert all(box.has_first for box in router.boxes.values())
        await trio.sleep(10)
        assert len(router.holders(lambda letter: True)) == len(PEERS)
        for box in router.boxes.values():
            drained(box)
        await trio.sleep(limits.HOLD_S + limits.HOLD_RANDOM_S + 1)
        assert len(router.holders(lambda letter: letter.message_id == b"0")) == len(PEERS)


async def test_a_queue_waits_for_first_copies_of_others_but_not_for_its_own(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        router = Router(nursery)
        mine, other = router.boxes[PEERS[0]], router.boxes[PEERS[1]]
        mine.put(shard(0))
        other.put(shard(1)._replace(is_first=True))
        began = trio.current_time()
        with trio.move_on_after(5) as still_waiting:
            await router.flow.may_send(mine)
        assert still_waiting.cancelled_caught
        mine.put(shard(2)._replace(is_first=True))
        await router.flow.may_send(mine)  # or two queues would wait for each other
        drained(mine)
        mine.put(shard(3))
        await router.flow.may_send(mine)  # nothing is put off for ever
        assert trio.current_time() - began == pytest.approx(5 + limits.FIRST_OUT_S, abs=1)


async def test_holders_of_a_shard_do_not_all_send_it_on_at_one_moment(
    autojump_clock: trio.testing.MockClock,
) -> None:
    moments = set()
    for seed in range(5):
        async with trio.open_nursery() as nursery:
            router = Router(nursery)
            router.flow = Shardflow(router, nursery.start_soon, random.Random(seed))
            router.flow.send_on(PEERS[:1], shard(0))
            began = trio.current_time()
            while not router.holders(lambda letter: True):
                await trio.sleep(0.05)
            moments.add(round(trio.current_time() - began, 1))
    assert len(moments) >= 4 and max(moments) <= limits.HOLD_S + limits.HOLD_RANDOM_S + 0.1
