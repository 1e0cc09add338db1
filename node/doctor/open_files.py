"""How many files a process may open: each connection takes one."""

from __future__ import annotations

import resource
from collections.abc import Iterator

from primed.node.doctor.context import Context
from primed.node.doctor.results import ok, skip, warn
from primed.node.local_views import CheckView

OTHERS = 128  # files of a daemon that are no connections


def check(context: Context) -> Iterator[CheckView]:
    if context.config is None:
        yield skip("open-files", "the settings are wrong")
        return
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = context.config.limits.connections + OTHERS
    text = f"{soft} files may be open; profile {context.config.profile} can use {wanted}"
    if soft != resource.RLIM_INFINITY and soft < wanted:
        yield warn("open-files", text, f"raise the limit before primed start: ulimit -n {wanted}")
    else:
        yield ok("open-files", text)
