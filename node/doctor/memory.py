"""Main memory: enough for the daemon and a child with a small model."""

from __future__ import annotations

from collections.abc import Iterator

import psutil  # type: ignore[import-untyped]

from primed.node.doctor.context import Context
from primed.node.doctor.results import fail, gib, ok, warn
from primed.node.local_views import CheckView

FAIL_BYTES, WARN_BYTES = 2**30, 3 * 2**30


def check(context: Context) -> Iterator[CheckView]:
    memory = psutil.virtual_memory()
    text = f"{gib(memory.available)} of {gib(memory.total)} are available"
    if memory.available < FAIL_BYTES:
        yield fail("memory", text, "close other programs: a child with torch needs 1 GiB or more")
    elif memory.available < WARN_BYTES:
        yield warn("memory", text, "hold one role only (--roles), or close other programs")
    else:
        yield ok("memory", text)
