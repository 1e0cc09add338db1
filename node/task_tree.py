"""The tree of trio tasks as text: who runs under whom, and where each one waits.

Written by the watchdog when a wait does not end. Names of functions and line numbers only: no
values, so no key can be among them. Bounded in tasks, frames and depth.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import trio

TASKS_MAX = 2000
FRAMES_MAX = 8  # the innermost of each task
DEPTH_MAX = 40


def task_tree(root: trio.lowlevel.Task) -> Iterator[str]:
    """One line a task, its frames indented below it, its children further in."""
    left = TASKS_MAX
    stack = [(root, 0)]
    while stack and left:
        task, depth = stack.pop()
        left -= 1
        indent = "  " * min(depth, DEPTH_MAX)
        yield f"{indent}- {task.name}"
        for line in _frames(task):
            yield f"{indent}    {line}"
        for nursery in reversed(task.child_nurseries):
            stack += [(child, depth + 1) for child in nursery.child_tasks]
    if stack:
        yield f"... and more than {TASKS_MAX} tasks"


def _frames(task: trio.lowlevel.Task) -> list[str]:
    frames = [
        f"{frame.f_code.co_qualname} ({_short(frame.f_code.co_filename)}:{line})"
        for frame, line in task.iter_await_frames()
    ]
    return frames[-FRAMES_MAX:]


def _short(filename: str) -> str:
    return "/".join(Path(filename).parts[-2:])
