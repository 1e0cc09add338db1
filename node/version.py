"""The installed version of primed."""

from __future__ import annotations

from functools import cache


@cache
def installed_version() -> str:
    from importlib.metadata import version

    return version("primed-node")
