"""The longest single callback of a trio loop, in CPU time of its thread: a busy machine's waiting does
not count."""

from __future__ import annotations

import time

import trio


class LoopWatch(trio.abc.Instrument):
    def __init__(self) -> None:
        self.longest_s = 0.0
        self.in_task = ""
        self._began: float | None = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._began is None:  # put in, or restarted, in the middle of this step
            return
        spent_s = time.thread_time() - self._began
        if spent_s > self.longest_s:
            self.longest_s, self.in_task = spent_s, task.name

    def restart(self) -> None:
        """Forget what was, for example the start."""
        self.longest_s, self.in_task, self._began = 0.0, "", None
