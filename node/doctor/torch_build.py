"""Does torch load, and is it built for this machine's GPU? Asked in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator

from primed.node.doctor.context import Context
from primed.node.doctor.results import fail, ok
from primed.node.local_views import CheckView


def check(context: Context) -> Iterator[CheckView]:
    found = context.probe
    if found.get("torch"):
        build = f"for CUDA {found['cuda']}" if found["cuda"] else "for the CPU"
        yield ok("torch", f"torch {found['torch']}, built {build}")
    else:
        remedy = "install torch again: make setup; without it a node can only be a relay"
        yield fail("torch", f"torch does not load: {found['error']}", remedy)
