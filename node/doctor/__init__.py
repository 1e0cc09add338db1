"""The doctor: is this machine, its network and its settings fit for a node? With or without a daemon.

Each check is one small module with `check(context)`, which yields results: what was found (evidence)
and what to do (remedy). A check that cannot be made says why and is skipped; one that breaks is a
finding of its own. docs/doctor.md lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from primed.node.doctor import (
    bandwidth,
    bootstrap,
    clock,
    daemon,
    disk,
    exposure,
    gpu,
    keys,
    memory,
    native,
    open_files,
    ports,
    reachability,
    settings,
    software,
    torch_build,
)
from primed.node.doctor.context import Context, gather
from primed.node.local_views import CheckView, DoctorView
from primed.node.paths import Paths

Check = Callable[[Context], Iterable[CheckView]]
CHECKS: tuple[Check, ...] = tuple(
    module.check
    for module in (
        software,
        torch_build,
        gpu,
        native,
        memory,
        disk,
        open_files,
        settings,
        keys,
        exposure,
        daemon,
        clock,
        ports,
        reachability,
        bootstrap,
        bandwidth,
    )
)


def examine(paths: Paths) -> DoctorView:
    """All checks, one after the other."""
    context = gather(paths)
    checks = tuple(result for check in CHECKS for result in _made(check, context))
    return DoctorView(
        checks=checks,
        warnings=sum(result.result == "warn" for result in checks),
        failures=sum(result.result == "fail" for result in checks),
        daemon=context.status is not None,
    )


def exit_code(view: DoctorView) -> int:
    return 2 if view.failures else 1 if view.warnings else 0


def _made(check: Check, context: Context) -> list[CheckView]:
    try:
        return list(check(context))
    except Exception as error:  # noqa: BLE001  the border: one broken check is not the end of all
        name = check.__module__.rpartition(".")[2]
        evidence = f"the check itself failed: {type(error).__name__}: {error}"[:300]
        remedy = "report it as a bug of primed"
        return [CheckView(id=name, result="warn", evidence=evidence, remedy=remedy)]
