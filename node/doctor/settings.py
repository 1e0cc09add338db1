"""Are the settings valid, all of them?"""

from __future__ import annotations

from collections.abc import Iterator

from primed.node import settings
from primed.node.doctor.context import Context
from primed.node.doctor.results import fail, ok
from primed.node.local_views import CheckView


def check(context: Context) -> Iterator[CheckView]:
    found = settings.validate(context.paths).findings
    for finding in found:
        yield fail("settings", finding.what, finding.fix)
    if not found:
        path = context.paths.config
        where = str(path) if path.exists() else f"no {path.name}: defaults and the environment"
        yield ok("settings", f"valid ({where})")
