"""Scenario 16: one key on two machines. The later one signs nothing and ends within two leases; a
key that has moved waits for one lease; a restart on the same machine waits for nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from primed.node import sessions
from primed.node.doppelganger import EXIT_DUPLICATE, Doppelganger, Doubles
from primed.node.problems import Problems
from primed.node.waits import Waits
from primed.p2p.errors import UserError
from primed.protocols.hello import Hello, NodeRecord
from primed.protocols.hello.messages import SignedRecord
from primed.protocols.limits import LEASE_S, SESSIONS_NAMED

from .memory_network import Fabric, MemoryNetwork
from .protocol_samples import NOW_MS

pytestmark = pytest.mark.trio


class Daemon:
    """What of a daemon matters here: hello, and the search for a double."""

    def __init__(self, network: MemoryNetwork, session: int, former: set[bytes] | None = None):
        self.network = network
        self.session = session.to_bytes(16, "big")
        self.doubles = Doubles(self.session, former or set())
        self.hello = Hello(network, self._record, network.key.sign, dict, self._clock)
        self.waits, self.problems = Waits(), Problems(trio.current_time)
        self.alone = trio.Event()
        self.ended: UserError | None = None
        self.double = Doppelganger(
            self.hello, self.doubles, self.waits, self.problems, network.peer, self.alone
        )

    def _clock(self) -> int:
        return NOW_MS + int(trio.current_time() * 1000)

    def _record(self) -> NodeRecord:
        now = self._clock()
        return NodeRecord(
            *(self.network.peer, (), (), ("/ip4/192.0.2.7/tcp/1",), (), "", now, now + 3_600_000),
            session=self.session,
            since_unix_ms=self.doubles.since_unix_ms,
            others=self.doubles.named,
        )

    async def run(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.hello.run)
                nursery.start_soon(self.double.watch)
                nursery.start_soon(
                    self.double.make_sure,
                    lambda: [info.peer for info in self.network.peers()],
                    self.network.meet_nearest,
                    lambda: not self.network.peers(),
                    self._clock,
                )
        except* UserError as group:
            self.ended = group.exceptions[0]  # type: ignore[assignment]
            self.network.linked.clear()


async def test_the_later_daemon_gives_way_before_it_signs(autojump_clock: trio.abc.Clock) -> None:
    async with trio.open_nursery() as nursery:
        fabric = Fabric(nursery)
        bystander = Daemon(fabric.node(2), 99)
        late = Daemon(fabric.node(1), 1)
        early = Daemon(fabric.node(1), 2)  # streams to this key go to the first daemon
        nursery.start_soon(bystander.run)
        fabric.link(early.network, bystander.network)
        nursery.start_soon(early.run)
        await trio.sleep(100)
        assert early.alone.is_set() and bystander.alone.is_set()
        began = trio.current_time()
        late.network.linked.add(bystander.network.peer)
        nursery.start_soon(late.run)
        while late.ended is None and trio.current_time() - began < 2 * LEASE_S:
            await trio.sleep(0.5)
        assert late.ended is not None and late.ended.exit_code == EXIT_DUPLICATE == 4
        assert "signed nothing" in late.ended.message and "192.0.2.7" in late.ended.message
        assert not late.alone.is_set()
        await trio.sleep(2 * LEASE_S)
        assert early.ended is None and bystander.ended is None
        assert early.problems.views() == ()  # told while it lasted, if at all
        nursery.cancel_scope.cancel()


async def test_a_double_that_no_neighbour_knows_is_heard_of_by_those_near_the_key(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with trio.open_nursery() as nursery:
        fabric = Fabric(nursery)
        near, far = Daemon(fabric.node(2), 99), Daemon(fabric.node(3), 98)
        late, early = Daemon(fabric.node(1), 1), Daemon(fabric.node(1), 2)
        for bystander in (near, far):
            nursery.start_soon(bystander.run)
        fabric.link(near.network, far.network)
        fabric.link(early.network, near.network)
        nursery.start_soon(early.run)
        await trio.sleep(100)
        late.network.linked.add(far.network.peer)
        late.network.near = [near.network]
        nursery.start_soon(late.run)
        with trio.fail_after(2 * LEASE_S):
            while late.ended is None:
                await trio.sleep(0.5)
        assert not late.alone.is_set() and early.ended is None
        nursery.cancel_scope.cancel()


async def test_a_key_that_moved_waits_until_its_old_session_has_ended(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with trio.open_nursery() as nursery:
        fabric = Fabric(nursery)
        bystander, old = Daemon(fabric.node(2), 99), Daemon(fabric.node(1), 1)
        nursery.start_soon(bystander.run)
        fabric.link(old.network, bystander.network)
        with trio.move_on_after(10):
            await old.run()
        fabric.unlink(old.network, bystander.network)
        new = Daemon(fabric.node(1), 2)
        fabric.link(new.network, bystander.network)
        nursery.start_soon(new.run)
        await trio.sleep(5)
        (wait,) = new.waits.views()
        assert wait.name == "one key, one machine" and "had this key lately" in wait.waiting_for
        began = trio.current_time()
        await new.alone.wait()
        assert LEASE_S - 20 < trio.current_time() - began <= LEASE_S
        nursery.cancel_scope.cancel()


async def test_a_restart_on_the_same_machine_does_not_wait(autojump_clock: trio.abc.Clock) -> None:
    async with trio.open_nursery() as nursery:
        fabric = Fabric(nursery)
        bystander, old = Daemon(fabric.node(2), 99), Daemon(fabric.node(1), 1)
        nursery.start_soon(bystander.run)
        fabric.link(old.network, bystander.network)
        with trio.move_on_after(10):
            await old.run()
        fabric.unlink(old.network, bystander.network)
        new = Daemon(fabric.node(1), 2, former={old.session})
        fabric.link(new.network, bystander.network)
        nursery.start_soon(new.run)
        with trio.fail_after(2):
            await new.alone.wait()
        nursery.cancel_scope.cancel()


async def test_a_peer_that_replays_what_it_kept_ends_nobody(autojump_clock: trio.abc.Clock) -> None:
    """Records of a former session, and of one that ended on another machine."""
    async with trio.open_nursery() as nursery:
        fabric = Fabric(nursery)
        keeper, old = Daemon(fabric.node(2), 99), Daemon(fabric.node(1), 1)
        kept: list[SignedRecord] = []

        def keep(record: NodeRecord, signed: SignedRecord, now: float) -> bool:
            if record.session == old.session:
                kept.append(signed)
            return False

        def replay(peer: bytes, session: bytes, now: float) -> SignedRecord | None:
            kept.append(kept.pop(0))
            return kept[-1]

        keeper.hello._sessions.observe = keep  # type: ignore[method-assign]
        nursery.start_soon(keeper.run)
        fabric.link(old.network, keeper.network)
        with trio.move_on_after(300):
            await old.run()
        fabric.unlink(old.network, keeper.network)
        assert len(kept) > 5
        keeper.hello._sessions.other = replay  # type: ignore[method-assign]
        for session, former, wait_s in ((2, {old.session}, 2), (3, set(), LEASE_S + 2)):
            kept.sort(key=lambda signed: signed.record)  # as they were signed
            new = Daemon(fabric.node(1), session, former)
            fabric.link(new.network, keeper.network)
            nursery.start_soon(new.run)
            with trio.fail_after(wait_s):
                await new.alone.wait()
            await trio.sleep(600)
            assert new.ended is None and new.problems.views() == ()
            fabric.unlink(new.network, keeper.network)
        nursery.cancel_scope.cancel()


def record(
    session: int, sequence: int, since: int = 0, others: tuple[bytes, ...] = ()
) -> NodeRecord:
    name = session.to_bytes(16, "big")
    return NodeRecord(
        *(bytes(38), (), (), (), (), "", sequence, 0),
        session=name,
        since_unix_ms=since,
        others=others,
    )


OWN = (5).to_bytes(16, "big")


async def test_only_a_record_that_names_us_proves_that_another_lives() -> None:
    doubles = Doubles(OWN, {(4).to_bytes(16, "big")})
    assert not doubles.saw(record(5, 1), 0.0)  # our own
    assert not doubles.saw(record(4, 1, others=(OWN,)), 0.0)  # has ended, whatever it says
    assert doubles.outcome(0.0) == "clear" and not doubles.named
    assert doubles.saw(record(6, 10, since=1), 0.0)
    assert not doubles.saw(record(6, 20, since=1), 1.0)  # newer, and yet it may be old
    assert doubles.named == ((6).to_bytes(16, "big"),)
    assert doubles.outcome(2.0) == "waiting"
    assert doubles.outcome(LEASE_S) == "clear"
    doubles.saw(record(6, 21, since=1, others=(bytes(16), OWN)), 3.0)
    assert doubles.outcome(3.0) == "give way"
    doubles.saw(record(6, 21, since=1, others=(OWN,)), 50.0)  # the same again
    doubles.saw(record(6, 20, since=1, others=(OWN,)), 60.0)
    assert doubles.outcome(4.0 + LEASE_S) == "clear"
    for number in range(1000):
        doubles.saw(record(7 + number, 1), 4.0)
    assert len(doubles._seen) <= 256 and len(doubles.named) == SESSIONS_NAMED


@pytest.mark.parametrize(
    ("own_since", "other_since", "other", "outcome"),
    [
        (0, 5, 9, "give way"),  # we start, it has begun
        (5, 0, 1, "other gives way"),
        (0, 0, 1, "give way"),  # both start: the smaller number stays
        (0, 0, 9, "other gives way"),
        (5, 4, 9, "give way"),  # both have begun: the earlier stays
        (5, 6, 1, "other gives way"),
        (5, 5, 1, "give way"),
    ],
)
async def test_who_gives_way(own_since: int, other_since: int, other: int, outcome: str) -> None:
    doubles = Doubles(OWN, set())
    doubles.since_unix_ms = own_since
    doubles.saw(record(other, 1, other_since), 0.0)
    doubles.saw(record(other, 2, other_since, (OWN,)), 1.0)
    assert doubles.outcome(1.0) == outcome


async def test_a_copied_directory_has_no_past(tmp_path: Path) -> None:
    here, copy = tmp_path / "here", tmp_path / "copy"
    here.mkdir()
    copy.mkdir()
    first, former = sessions.begin(here / "sessions.json")
    assert former == frozenset()
    sessions.note(here / "sessions.json", first)
    second, former = sessions.begin(here / "sessions.json")
    assert former == {first} and second != first
    (copy / "sessions.json").write_bytes((here / "sessions.json").read_bytes())
    assert sessions.begin(copy / "sessions.json")[1] == frozenset()
    for _ in range(40):
        session, former = sessions.begin(here / "sessions.json")
        sessions.note(here / "sessions.json", session)
    assert len(former) == 16
    (here / "sessions.json").write_text("{")
    assert sessions.begin(here / "sessions.json")[1] == frozenset()
