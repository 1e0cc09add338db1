"""Scenario 15: out of memory means half as much at once and the same work again; three times in a
row the role gives up. Against a real child process that runs out of memory above a limit."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from primed.node.roles.memory import OutOfMemory, Portion
from primed.node.supervisor import Child, ChildFailed, Policy, Supervisor
from primed.training.messages import Configure, Generate, Generated

COMMAND = (sys.executable, str(Path(__file__).with_name("child_for_tests.py")))
QUICK = Policy(ready_s=10, first_pause_s=0.05, longest_pause_s=0.1, grace_s=0.5)
EXIT, ROWS_ABOVE_8 = 103, 108
pytestmark = pytest.mark.trio


@asynccontextmanager
async def one_child(tmp_path: Path) -> AsyncIterator[Child]:
    supervisor = Supervisor(tmp_path, policy=QUICK, command=COMMAND)
    configure = Configure(id=0, kind="engine", spec=b"", run_id=bytes(32), peer=b"")
    async with supervisor.running():
        yield supervisor.start("engine-1", configure)


async def generated(portion: Portion, child: Child, counter: int) -> Generated:
    def request(rows: int) -> Generate:
        return Generate(
            id=0, counter=counter, version=b"v", weights_path="", out_path="", rows_max=rows
        )

    return await portion.ask(child, request, Generated, timeout_s=10, name=f"batch {counter}")


async def test_the_same_batch_is_made_with_half_the_rows(tmp_path: Path) -> None:
    portion = Portion(32)
    async with one_child(tmp_path) as child:
        assert (await generated(portion, child, ROWS_ABOVE_8)).counter == ROWS_ABOVE_8
        assert portion.size == 8 and child.restarts == 2
        assert (await generated(portion, child, ROWS_ABOVE_8)).counter == ROWS_ABOVE_8
        assert child.restarts == 2  # what was learnt stays


async def test_three_times_in_a_row_are_enough(tmp_path: Path) -> None:
    portion = Portion(1024)
    async with one_child(tmp_path) as child:
        with trio.fail_after(20):
            with pytest.raises(OutOfMemory, match="3 times with batch 108, last: .*2 GiB wanted"):
                await generated(portion, child, ROWS_ABOVE_8)
    assert portion.size == 256


async def test_other_failures_are_not_tried_again(tmp_path: Path) -> None:
    portion = Portion(32)
    async with one_child(tmp_path) as child:
        with pytest.raises(ChildFailed, match="exit code 7"):
            await generated(portion, child, EXIT)
    assert portion.size == 32
