"""Watching a run's weights come in: a bar for each payload on a terminal, else a line now and then.

What is shown is what the daemon says: its rate and its estimate. Goes to stderr.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from primed.node.cli.client import Client
from primed.node.cli.text import clean, progress_of
from primed.node.views import RunView
from primed.p2p.errors import UserError

LOOK_S = 0.3
NEED_WEIGHTS = {"worker", "verifier"}


def is_ready(view: RunView) -> bool:
    """Whether nothing has to come any more before this node can work on the newest version."""
    if view.newest is None or view.transfers:
        return False
    return view.newest.held or not NEED_WEIGHTS.intersection(view.roles)


def until_ready(client: Client, view: RunView, timeout_s: float, *, is_shown: bool) -> RunView:
    """The run's view once its newest weights are here. Raises UserError after timeout_s."""
    deadline = time.monotonic() + timeout_s
    with _screen(is_shown) as screen:
        while not is_ready(view):
            screen.show(view)
            if time.monotonic() > deadline:
                text = f"run {view.name} is not ready after {timeout_s:g} s: {view.reason}"
                raise UserError(text, "it goes on without this command: see primed status")
            time.sleep(LOOK_S)
            view = client.get(f"runs/{view.run}", RunView)
        screen.show(view)
    return view


class Screen(Protocol):
    def show(self, view: RunView) -> None: ...


class Nothing:
    def show(self, view: RunView) -> None:
        """For --json."""


class Lines:
    """A line whenever a payload has got a tenth further, or the run's words have changed."""

    def __init__(self) -> None:
        self._said: dict[str, object] = {}

    def show(self, view: RunView) -> None:
        if not view.transfers:
            self._say("", view.reason, f"{view.state}: {view.reason}")
        for each in view.transfers:
            tenth = 10 * each.here_bytes // each.size_bytes
            self._say(each.name, tenth, f"{each.name}: {progress_of(each)}")

    def _say(self, about: str, state: object, words: str) -> None:
        if self._said.get(about) != state:
            self._said[about] = state
            print(clean(words), file=sys.stderr, flush=True)


class Bars:
    """Rich's, one a payload."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskID, TextColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[words]}"),
        )
        self.progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._tasks: dict[str, TaskID] = {}

    def show(self, view: RunView) -> None:
        under_way = {each.name: each for each in view.transfers}
        for name in self._tasks.keys() - under_way.keys():
            self.progress.remove_task(self._tasks.pop(name))
        for name, each in under_way.items():
            if name not in self._tasks:
                self._tasks[name] = self.progress.add_task(
                    clean(name), total=each.size_bytes, words=""
                )
            self.progress.update(
                self._tasks[name], completed=each.here_bytes, words=progress_of(each)
            )
        self.progress.refresh()


@contextmanager
def _screen(is_shown: bool) -> Iterator[Screen]:
    if not is_shown:
        yield Nothing()
    elif not sys.stderr.isatty():
        yield Lines()
    else:
        bars = Bars()
        with bars.progress:
            yield bars
