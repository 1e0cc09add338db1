"""The commands that look closely: doctor, bundle, logs, schema. None of them needs a daemon."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from primed.node.cli.options import COMMON, Common, print_json, show_json


def doctor(*, common: Common = COMMON) -> int:
    """Check this machine, its network and the settings. Exit code 1: warnings, 2: failures."""
    from primed.node import doctor as checks

    view = checks.examine(common.paths)
    if not show_json(view, common):
        from primed.node.cli.screens import print_doctor

        print_doctor(view)
    return checks.exit_code(view)


def bundle(
    *,
    out: Annotated[Path | None, Parameter(help="The file [primed-bundle-<time>.tar.gz].")] = None,
    common: Common = COMMON,
) -> None:
    """Write a redacted archive for somebody who helps: status, doctor, settings, logs, versions."""
    from primed.node.bundle import write

    name = time.strftime("primed-bundle-%Y%m%d-%H%M%S.tar.gz", time.gmtime())
    view = write(common.paths, (out or Path(name)).absolute())
    if not show_json(view, common):
        from primed.node.cli.screens import print_bundle

        print_bundle(view)


def logs(
    *,
    follow: Annotated[
        bool, Parameter(name=["--follow", "-f"], negative="", help="Go on with what comes.")
    ] = False,
    level: Annotated[
        Literal["debug", "info", "warning", "error"], Parameter(help="Least level shown.")
    ] = "debug",
    child: Annotated[
        str | None, Parameter(help="A child's output, by (begin of) its name.")
    ] = None,
    lines: Annotated[int, Parameter(name=["--lines", "-n"], help="How many lines, newest.")] = 50,
    common: Common = COMMON,
) -> None:
    """Print the node's log. With --json the entries as they are, one object a line."""
    from primed.node import log_files

    path = log_files.find_log(common.paths.logs, child)
    is_wanted = log_files.from_level(level)

    def show(line: str) -> None:
        from primed.node.cli.text import clean_lines

        print(line if common.json else clean_lines(log_files.as_text(line)))
        sys.stdout.flush()

    last, end = log_files.tail(path, max(0, lines), is_wanted)
    for line in last:
        show(line)
    if follow:
        for line in log_files.follow(path, end, is_wanted):
            show(line)


def schema(
    *command: Annotated[str, Parameter(help="A command, for example runs show [all of them].")],
) -> None:
    """Print the JSON Schema of what a command prints with --json."""
    from primed.node.schemas import schema_of

    print_json(schema_of(" ".join(command)))
