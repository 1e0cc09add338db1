"""The compiled module `primed.native._ext`, or None where it was not built: then the twins serve.

Only the faces of this folder (noise, proofs, deltas, rounding, quantised) call it; they check what
they pass on, and it checks shapes and types once more.
"""

from __future__ import annotations

try:
    from primed.native import _ext
except ImportError:  # not built
    _ext = None  # type: ignore[assignment]

ext = _ext
VERSION = 4  # of the compiled module's functions, see src/ext.cpp

if ext is not None and ext.version() != VERSION:
    raise ImportError("primed.native._ext was built from other sources: run `make native`")


def backend() -> str:
    """What computes: "cpp" or "numpy"."""
    return "numpy" if ext is None else "cpp"
