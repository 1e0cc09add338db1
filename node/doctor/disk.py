"""Room for the data directory, and whether it can be written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from primed.node.disk import LEAST_BYTES
from primed.node.doctor.context import Context
from primed.node.doctor.results import fail, gib, ok, warn
from primed.node.local_views import CheckView

WARN_BYTES = 5 * 2**30


def check(context: Context) -> Iterator[CheckView]:
    folder = _nearest(context.paths.root)
    free = shutil.disk_usage(folder).free
    text = f"{gib(free)} are free for {context.paths.root}"
    if not os.access(folder, os.W_OK):
        remedy = "choose another place: --data-dir or PRIMED_DATA_DIR"
        yield fail("disk", f"{folder} cannot be written", remedy)
    elif free < LEAST_BYTES:
        yield fail("disk", text, "free some space: the node waits until there is room")
    elif free < WARN_BYTES:
        yield warn("disk", text, "have 5 GiB or more: checkpoints of a larger run need them")
    else:
        yield ok("disk", text)


def _nearest(folder: Path) -> Path:
    """The folder, or the first above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())
