"""Stages of a long benchmark: what is measured already is kept, so that one that was interrupted goes
on where it was. What is older than a run may take counts as another run and is measured again.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

FOLDER = Path("build/benchmarks")
RUN_S = 90 * 60.0  # one run ends within this


class Stages:
    """`key` names what the stages depend on: the same key, the same run."""

    def __init__(self, name: str, key: dict[str, Any]) -> None:
        self._path = FOLDER / f"{name}.json"
        self._kept: dict[str, Any] = {"key": key, "began": time.time(), "stages": {}}
        if self._path.exists():
            kept = json.loads(self._path.read_text())
            if kept["key"] == key and time.time() - kept["began"] < RUN_S:
                self._kept = kept

    async def once(
        self, stage: str, measure: Callable[[], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        """What `measure` finds, now or before the interruption."""
        stages = self._kept["stages"]
        if stage not in stages:
            began = time.monotonic()
            stages[stage] = await measure()
            print(f"{stage}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(self._kept))
        found: dict[str, Any] = stages[stage]
        return found

    def end(self) -> None:
        """All was shown: the next call is another run."""
        self._path.unlink(missing_ok=True)
