"""The supervisor against a real child process: each way of stopping has a reason and a restart."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from primed.node.supervisor import Child, ChildFailed, Policy, Stop, Supervisor
from primed.training.messages import Checked, Configure, Generate, Generated

SCRIPT = Path(__file__).with_name("child_for_tests.py")
COMMAND = (sys.executable, str(SCRIPT))
SLOW, OOM, EXIT, RUBBISH, SILENT, SEGFAULT, FATAL = range(101, 108)
HOLDER = """
import sys, trio
from pathlib import Path
from primed.node.supervisor import Supervisor
from primed.training.messages import Configure

async def main():
    supervisor = Supervisor(Path(sys.argv[1]), command=(sys.executable, sys.argv[2]))
    async with supervisor.running():
        child = supervisor.start("engine-1", Configure(0, "engine", b"", b"", b""))
        await child.ready(10)
        print(supervisor.status()[0].pid, flush=True)
        await trio.sleep(60)

trio.run(main)
"""
QUICK = Policy(ready_s=10, first_pause_s=0.05, longest_pause_s=0.2, grace_s=0.5)


def configure(spec: bytes = b"") -> Configure:
    return Configure(id=0, kind="engine", spec=spec, run_id=bytes(32), peer=b"", threads=1)


def generate(counter: int) -> Generate:
    return Generate(id=0, counter=counter, version=b"v", weights_path="", out_path="")


@asynccontextmanager
async def one_child(tmp_path: Path, stops: list[Stop]) -> AsyncIterator[tuple[Supervisor, Child]]:
    def told(_: Child, stop: Stop) -> None:
        stops.append(stop)

    supervisor = Supervisor(tmp_path, policy=QUICK, command=COMMAND, on_stop=told)
    async with supervisor.running():
        yield supervisor, supervisor.start("engine-1", configure())


async def ask(child: Child, counter: int, timeout_s: float = 10) -> Generated:
    return await child.ask(
        generate(counter), Generated, timeout_s=timeout_s, name=f"generating batch {counter}"
    )


@pytest.mark.trio
async def test_requests_are_answered_and_the_child_leaves_no_process(tmp_path: Path) -> None:
    async with one_child(tmp_path, []) as (supervisor, child):
        ready = await child.ready(10)
        assert ready.profile == "test"
        for counter in range(3):
            assert (await ask(child, counter)).counter == counter
        (view,) = supervisor.status()
        assert (view.state, view.restarts, view.reason) == ("ready", 0, "")
        pid = view.pid
    assert pid is not None and not Path(f"/proc/{pid}").exists()
    assert supervisor.status() == []


@pytest.mark.trio
@pytest.mark.parametrize(
    ("counter", "kind", "words"),
    [
        (OOM, "oom", "signal 9"),
        (EXIT, "crash", "exit code 7"),
        (RUBBISH, "crash", "something else than a message"),
        (SEGFAULT, "crash", "SIGSEGV"),
    ],
)
async def test_a_stop_has_a_typed_reason_and_is_followed_by_a_restart(
    tmp_path: Path, counter: int, kind: str, words: str
) -> None:
    stops: list[Stop] = []
    async with one_child(tmp_path, stops) as (supervisor, child):
        with pytest.raises(ChildFailed) as caught:
            await ask(child, counter)
        assert caught.value.kind == kind
        assert (await ask(child, 1)).counter == 1
        (view,) = supervisor.status()
    assert view.restarts == 1
    assert words in view.reason
    assert [(stop.kind, stop.reason) for stop in stops] == [(kind, view.reason)]
    assert view.reason in caught.value.message


@pytest.mark.trio
async def test_the_last_word_of_a_child_is_the_reason(tmp_path: Path) -> None:
    stops: list[Stop] = []
    async with one_child(tmp_path, stops) as (_, child):
        with pytest.raises(ChildFailed, match="2 GiB wanted"):
            await ask(child, FATAL)
        assert (await ask(child, 1)).counter == 1
    assert stops == [Stop("oom", "ran out of memory: 2 GiB wanted")]


@pytest.mark.trio
async def test_a_request_past_its_deadline_ends_the_child(tmp_path: Path) -> None:
    async with one_child(tmp_path, []) as (supervisor, child):
        await child.ready(10)
        async with trio.open_nursery() as nursery:

            async def late() -> None:
                with pytest.raises(ChildFailed, match="batch 101 took more than") as caught:
                    await ask(child, SLOW, timeout_s=0.6)
                assert caught.value.kind == "hang"

            nursery.start_soon(late)
            await trio.sleep(0.3)
            (wait,) = supervisor.waits()
            assert (wait.name, wait.waiting_for) == ("generating batch 101", "engine-1")
            assert 0 < wait.deadline_s < 0.6
            assert supervisor.status()[0].state == "busy"
        assert (await ask(child, 1)).counter == 1


@pytest.mark.trio
async def test_an_idle_child_without_heartbeats_is_replaced(tmp_path: Path) -> None:
    stops: list[Stop] = []
    async with one_child(tmp_path, stops) as (_, child):
        await ask(child, SILENT)
        with trio.fail_after(10):
            while not stops:
                await trio.sleep(0.1)
        assert stops[0].kind == "hang" and "no heartbeat" in stops[0].reason
        assert (await ask(child, 1)).counter == 1


@pytest.mark.trio
async def test_a_cancelled_caller_leaves_the_child_usable(tmp_path: Path) -> None:
    async with one_child(tmp_path, []) as (_, child):
        await child.ready(10)
        with trio.move_on_after(0.1) as scope:
            await ask(child, SLOW)
        assert scope.cancelled_caught
        assert (await ask(child, 1)).counter == 1
        assert child.restarts == 0


@pytest.mark.trio
async def test_a_bad_configuration_is_not_tried_again(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path, policy=QUICK, command=COMMAND)
    async with supervisor.running():
        child = supervisor.start("engine-1", configure(b"bad"))
        with pytest.raises(ChildFailed, match="no such model"):
            await child.ready(10)
        with pytest.raises(ChildFailed, match="no such model"):
            await ask(child, 1)
        (view,) = supervisor.status()
        assert (view.state, view.restarts, view.pid) == ("failed", 0, None)
        assert "no such model" in view.reason
        again = supervisor.start("engine-1", configure())
        assert (await again.ready(10)).profile == "test"


@pytest.mark.trio
async def test_a_program_that_cannot_start_is_retried_with_growing_pauses(tmp_path: Path) -> None:
    stops: list[Stop] = []
    supervisor = Supervisor(
        tmp_path,
        policy=QUICK,
        command=(str(tmp_path / "absent"),),
        on_stop=lambda _, stop: stops.append(stop),
    )
    async with supervisor.running():
        child = supervisor.start("engine-1", configure())
        with pytest.raises(ChildFailed, match="could not be started"):
            await child.ready(1.0)
    assert 3 <= len(stops) <= 8  # 0.05, 0.1, 0.2, 0.2, ... seconds


@pytest.mark.trio
async def test_the_real_child_says_what_is_wrong_with_its_configuration(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path)
    async with supervisor.running():
        child = supervisor.start("engine-1", configure(b"not a RunSpec"))
        with pytest.raises(ChildFailed) as caught:
            await child.ready(60)
        assert caught.value.kind == "bad_config"
        assert supervisor.status()[0].state == "failed"


def test_a_killed_daemon_leaves_no_child(tmp_path: Path) -> None:
    """Scenario 1: the socket closes with its holder, and the child leaves by itself."""
    holder = [sys.executable, "-c", HOLDER, str(tmp_path), str(SCRIPT)]
    daemon = subprocess.Popen(holder, stdout=subprocess.PIPE)
    assert daemon.stdout is not None
    try:
        process = Path("/proc") / daemon.stdout.readline().decode().strip()
        assert process.exists()
    finally:
        daemon.kill()
        daemon.communicate()
    deadline = time.monotonic() + 10
    while process.exists() and "zombie" not in (process / "status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.trio
async def test_a_wrong_reply_is_a_bug_of_the_child(tmp_path: Path) -> None:
    async with one_child(tmp_path, []) as (_, child):
        with pytest.raises(ChildFailed, match="with a Generated") as caught:
            await child.ask(generate(1), Checked, timeout_s=10, name="checking")
        assert caught.value.kind == "bug"


@pytest.mark.trio
async def test_children_get_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenario 43: what is in the daemon's environment stays there; output is in the child's log."""
    monkeypatch.setenv("HF_TOKEN", "canary")
    monkeypatch.setenv("PRIMED_LISTEN", "[]")
    async with one_child(tmp_path, []) as (_, child):
        await child.ready(10)
    text = (tmp_path / "engine-1.log").read_text()
    assert "OMP_NUM_THREADS" in text
    assert "HF_TOKEN" not in text and "PRIMED_" not in text
