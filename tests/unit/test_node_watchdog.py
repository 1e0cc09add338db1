"""Waits that are seen, and a stuck one that is found: the dump, the problem, their bounds; systemd."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from primed.node.problems import Problems
from primed.node.systemd import Systemd
from primed.node.task_tree import TASKS_MAX, task_tree
from primed.node.views import WaitView
from primed.node.waits import Changes, Waits
from primed.node.watchdog import DUMPS_KEPT, Watchdog
from primed.protocols.disk import inline

pytestmark = pytest.mark.trio
RATE = 100.0  # of the clock in the test of a suspension


@pytest.fixture
async def no_threads() -> AsyncIterator[None]:
    """A clock that jumps does not wait for threads."""
    with inline():
        yield


async def test_waits_tell_what_they_wait_for_now() -> None:
    waits = Waits()
    waits.include(lambda: [WaitView(name="x", waiting_for="y", since_s=1.0, deadline_s=2.0)])
    leaves = 3
    with waits.named("delta of step 7", lambda: f"{leaves} of 9 leaves", 10.0):
        leaves = 4
        own, other = waits.views()
        assert (own.name, own.waiting_for) == ("delta of step 7", "4 of 9 leaves")
        assert 9 < own.deadline_s <= 10 and other.name == "x"
    assert [view.name for view in waits.views()] == ["x"]


async def test_a_wait_that_keeps_its_deadline_is_left_alone(
    tmp_path: Path, autojump_clock: trio.abc.Clock, no_threads: None
) -> None:
    waits, problems = Waits(), Problems(trio.current_time)
    changes = Changes(waits)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Watchdog(waits, problems, tmp_path).run)
        await changes.until(lambda: None, "nothing", "nobody", 60.0)
        assert problems.views() == ()
        nursery.cancel_scope.cancel()


async def stuck_in_a_lock(waits: Waits, release: trio.Event) -> None:
    with waits.named("a lock", "who holds it", 10.0):
        await release.wait()


async def test_a_stuck_wait_is_a_problem_with_a_dump_until_it_ends(
    tmp_path: Path, autojump_clock: trio.abc.Clock, no_threads: None
) -> None:
    waits, problems, release, counted = Waits(), Problems(trio.current_time), trio.Event(), []
    dog = Watchdog(waits, problems, tmp_path, on_stuck=lambda: counted.append(1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(dog.run)
        nursery.start_soon(stuck_in_a_lock, waits, release)
        await trio.sleep(19.9)
        assert problems.views() == ()
        await trio.sleep(6)
        (problem,) = problems.views()
        assert "the wait for a lock should have ended after 10 s" in problem.what
        (dump,) = tmp_path.glob("tasks-*.txt")
        assert str(dump) in problem.fix
        text = dump.read_text()
        assert text.startswith("stuck: a lock\n")
        assert "stuck_in_a_lock (unit/test_node_watchdog.py:" in text
        await trio.sleep(100)
        assert len(counted) == 1  # told once
        release.set()
        await trio.sleep(6)
        assert problems.views() == ()
        nursery.cancel_scope.cancel()


async def test_many_stuck_waits_do_not_fill_the_disk(
    tmp_path: Path, autojump_clock: trio.abc.Clock, no_threads: None
) -> None:
    waits, problems, release = Waits(), Problems(trio.current_time), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Watchdog(waits, problems, tmp_path).run)
        for _ in range(DUMPS_KEPT + 4):
            for _ in range(3):
                nursery.start_soon(stuck_in_a_lock, waits, release)
            await trio.sleep(70)
        assert len(list(tmp_path.iterdir())) == DUMPS_KEPT
        nursery.cancel_scope.cancel()


async def test_a_daemon_that_was_suspended_judges_later(tmp_path: Path) -> None:
    """The clock has run on while nothing could (SIGSTOP): deadlines that have just passed are let
    pass."""

    class Suspended(trio.abc.Clock):
        lost = 0.0

        def start_clock(self) -> None: ...

        def current_time(self) -> float:
            return self.lost + inner.current_time()

        def deadline_to_sleep_time(self, deadline: float) -> float:
            return (deadline - self.current_time()) / RATE

    clock, inner = Suspended(), trio.testing.MockClock(rate=RATE)
    inner.start_clock()
    found: list[int] = []

    async def main() -> None:
        waits, problems = Waits(), Problems(trio.current_time)
        changes = Changes(waits)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Watchdog(waits, problems, tmp_path).run)
            nursery.start_soon(changes.until, lambda: None, "a while", "time", 20.0)
            await trio.sleep(7)
            clock.lost = 1000.0
            await trio.sleep(9)
            found.append(len(problems.views()))
            nursery.cancel_scope.cancel()

    await trio.to_thread.run_sync(lambda: trio.run(main, clock=clock))
    assert found == [0] and list(tmp_path.iterdir()) == []


async def test_the_tree_of_tasks_is_bounded() -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(TASKS_MAX + 10):
            nursery.start_soon(trio.sleep_forever)
        await trio.testing.wait_all_tasks_blocked()
        root = trio.lowlevel.current_root_task()
        assert root is not None
        lines = list(task_tree(root))
        assert lines[-1].startswith("... and more than")
        assert sum(line.lstrip().startswith("- ") for line in lines) == TASKS_MAX
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("name", ["path", "abstract"])
async def test_systemd_hears_that_we_are_ready_and_alive(tmp_path: Path, name: str) -> None:
    address = str(tmp_path / "notify") if name == "path" else f"@primed-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0" + address[1:] if name == "abstract" else address)
        receiver.settimeout(5)
        environ = {
            "NOTIFY_SOCKET": address,
            "WATCHDOG_USEC": "200000",
            "WATCHDOG_PID": str(os.getpid()),
        }
        systemd = Systemd(environ)
        systemd.notify("READY=1")
        assert receiver.recv(64) == b"READY=1"
        with trio.move_on_after(0.35):
            await systemd.beat()
        receiver.setblocking(False)
        beats = [receiver.recv(64) for _ in range(3)]
        assert beats == [b"WATCHDOG=1"] * 3


@pytest.mark.parametrize(
    "change",
    [
        lambda environ: environ.clear(),
        lambda environ: environ.update(NOTIFY_SOCKET="/absent/socket"),
        lambda environ: environ.update(WATCHDOG_PID="1"),
    ],
)
async def test_without_systemd_nothing_happens(
    change: Callable[[dict[str, str]], None],
) -> None:
    environ = {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": str(os.getpid())}
    change(environ)
    systemd = Systemd(environ)
    systemd.notify("READY=1")
    with trio.move_on_after(0.05) as scope:
        await systemd.beat()
    assert scope.cancelled_caught == (environ.get("WATCHDOG_PID") == str(os.getpid()))
