"""Watches over the waits: one that is open for twice its time is stuck, which is a bug.

It is said as a problem, and the tree of tasks is written to the logs folder, so that the bug can be
found afterwards; nothing is cancelled. A daemon that was itself held up (suspended laptop, SIGSTOP)
judges nothing until its tasks have had a moment to catch up.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import structlog
import trio

from primed.node.problems import Problems
from primed.node.task_tree import task_tree
from primed.node.waits import Waits
from primed.p2p.waits import Wait
from primed.protocols.disk import on_disk

TICK_S = 5.0
PATIENCE = 2.0  # times its deadline
DUMPS_KEPT = 5
DUMP_MAX_BYTES = 256 * 1024
BETWEEN_DUMPS_S = 60.0
_log = structlog.get_logger("primed.watchdog")


class Watchdog:
    def __init__(
        self,
        waits: Waits,
        problems: Problems,
        logs_dir: Path,
        *,
        tick_s: float = TICK_S,
        on_stuck: Callable[[], None] = lambda: None,
    ) -> None:
        """on_stuck: called once for each wait that is found stuck, for a counter."""
        self._waits = waits
        self._problems = problems
        self._logs_dir = logs_dir
        self._tick_s = tick_s
        self._on_stuck = on_stuck
        self._stuck: dict[int, Wait] = {}
        self._dumped_at = -BETWEEN_DUMPS_S

    async def run(self) -> None:
        while True:
            began = trio.current_time()
            await trio.sleep(self._tick_s)
            if trio.current_time() - began < 2 * self._tick_s:
                await self._look()

    async def _look(self) -> None:
        now, waits = trio.current_time(), {wait.number: wait for wait in self._waits.open()}
        for number in self._stuck.keys() - waits.keys():
            self._problems.clear(_problem_of(self._stuck.pop(number)))
        for number, wait in waits.items():
            is_over = now - wait.since > PATIENCE * wait.timeout_s
            if is_over and number not in self._stuck:
                self._stuck[number] = wait
                await self._tell(wait, now)

    async def _tell(self, wait: Wait, now: float) -> None:
        self._on_stuck()
        _log.error("wait is stuck", wait=wait.name, for_s=round(now - wait.since))
        where = "see logs/ in the data directory"
        if now - self._dumped_at >= BETWEEN_DUMPS_S:
            self._dumped_at = now
            where = f"{await self._dump(wait)} shows where everything waits"
        what = (
            f"the wait for {wait.name} should have ended after {wait.timeout_s:.0f} s and is still "
            f"open after {now - wait.since:.0f} s: this is a bug in primed"
        )
        fix = f"{where}; report it (primed bundle), and restart if work has stopped"
        self._problems.raise_(_problem_of(wait), what, fix)

    async def _dump(self, wait: Wait) -> Path:
        root = trio.lowlevel.current_root_task()
        lines = [f"stuck: {wait.name}", *(task_tree(root) if root else ())]
        path = self._logs_dir / f"tasks-{time.time_ns() // 1_000_000}.txt"
        await on_disk(_write, path, "\n".join(lines))
        return path


def _problem_of(wait: Wait) -> str:
    return f"stuck-{wait.number}"


def _write(path: Path, text: str) -> None:
    """Only the newest dumps stay."""
    try:
        path.write_bytes(text.encode()[:DUMP_MAX_BYTES])
        old = sorted(path.parent.glob("tasks-*.txt"), key=lambda each: each.name)
        for each in old[:-DUMPS_KEPT]:
            os.unlink(each)
    except OSError as error:  # a full disk must not end the watchdog
        _log.error("no dump written", reason=str(error))
