"""What every benchmark prints: one figure a line, as JSON, beside its baseline from the same run.

`value` is compared with `baseline` (ratio = value / baseline); a goal is for the ratio or for the
value itself. Times are the smallest of RUNS, which is what the code takes when the machine leaves
it alone; rates per core-second are from the thread's CPU time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

RUNS = 7


@dataclass(frozen=True)
class Figure:
    """name: what `docs` and issues call it. about: whatever else helps to read it."""

    name: str
    value: float
    unit: str
    better: Literal["lower", "higher"]
    baseline: float | None = None
    goal: float | None = None
    goal_is_for: Literal["ratio", "value"] = "value"
    about: Mapping[str, object] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        return None if self.baseline is None else self.value / self.baseline

    @property
    def ok(self) -> bool | None:
        """Whether the goal is met; None without one."""
        reached = self.ratio if self.goal_is_for == "ratio" else self.value
        if self.goal is None or reached is None:
            return None
        return reached <= self.goal if self.better == "lower" else reached >= self.goal

    def line(self) -> str:
        return json.dumps(
            {
                "figure": self.name,
                "value": _rounded(self.value),
                "unit": self.unit,
                "baseline": _rounded(self.baseline),
                "ratio": _rounded(self.ratio),
                "better": self.better,
                "goal": self.goal,
                "goal_is_for": self.goal_is_for,
                "ok": self.ok,
                **self.about,
            }
        )


def show(figure: Figure) -> None:
    """Print a figure's line at once: a benchmark may be interrupted."""
    print(figure.line(), flush=True)


def wall_seconds(*works: Callable[[], object]) -> list[float]:
    """Of each work the shortest wall time of RUNS, taken in turns so that all see the same machine."""
    return _shortest(time.perf_counter, works)


def cpu_seconds(*works: Callable[[], object]) -> list[float]:
    """The same in CPU-seconds of this thread."""
    return _shortest(time.thread_time, works)


def _shortest(clock: Callable[[], float], works: tuple[Callable[[], object], ...]) -> list[float]:
    best = [float("inf")] * len(works)
    for _ in range(RUNS):
        for i, work in enumerate(works):
            began = clock()
            work()
            best[i] = min(best[i], clock() - began)
    return best


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
