"""Is the compiled module there? Without it everything works, slower."""

from __future__ import annotations

from collections.abc import Iterator

from primed.node.doctor.context import Context
from primed.node.doctor.results import ok, skip, warn
from primed.node.local_views import CheckView


def check(context: Context) -> Iterator[CheckView]:
    backend = context.probe.get("native")
    if backend is None:
        yield skip("native", f"not known: {context.probe['error']}")
    elif backend == "numpy":
        text = "the compiled module is missing: NumPy computes in its place, several times slower"
        yield warn("native", text, "install a C++ compiler and run: make native")
    else:
        yield ok("native", f"the compiled module serves ({backend})")
