"""`primed`: the command line. Exit codes: 0 done, 1 something the user can mend (or a bug), 2 wrong
usage, 3 the data directory is held by another daemon.

Errors say what is wrong and what to do, without a traceback (PRIMED_DEBUG=1 shows it). With --json
a command asks nothing and prints one JSON object, also for an error. Answering `status` costs less
than 0.25 s of CPU: nothing here imports torch, libp2p, trio or rich before it is needed.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from typing import TextIO

from primed.node.cli.text import clean
from primed.p2p.errors import UserError

EXIT_USER, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def main() -> None:
    """Entry point of the console script."""
    gc.disable()  # most commands are over in a moment; `start` and `demo` turn it on again
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code."""
    from cyclopts import CycloptsError

    from primed.node.cli.app import app

    as_json = "--json" in arguments
    try:
        result = app(arguments, exit_on_error=False, result_action="return_value")
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except CycloptsError:
        return EXIT_USAGE  # printed by cyclopts
    except UserError as error:
        _report(error, as_json)
        return error.exit_code
    except BrokenPipeError:  # `primed … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001  the top level: a user sees a sentence
        shown = _as_user_error(error)
        _report(shown, as_json)
        return shown.exit_code


def _as_user_error(error: BaseException) -> UserError:
    """The user's part of what ended the daemon's tasks together, or else: a bug."""
    while isinstance(error, BaseExceptionGroup):
        users, _ = error.split(UserError)
        error = (users or error).exceptions[0]
    if isinstance(error, UserError):
        return error
    from primed.node.disk import is_disk_full

    if is_disk_full(error):
        hint = "free some space (df -h says where there is none), then do it again"
        return UserError(f"no room on the disk: {error}", hint)
    text = f"this is a bug in primed: {type(error).__name__}: {error}"
    hint = "set PRIMED_DEBUG=1 to see the traceback, and report it"
    wrapped = UserError(text[:300], hint)
    wrapped.__cause__ = error
    return wrapped


def _report(error: UserError, as_json: bool) -> None:
    if os.environ.get("PRIMED_DEBUG"):
        import traceback

        traceback.print_exception(error)
    if as_json:
        import json

        body = {"error": error.message, "hint": error.hint, "code": error.exit_code}
        print(json.dumps(body, indent=2))
    else:
        _print_error(error, sys.stderr)


def _print_error(error: UserError, file: TextIO) -> None:
    print(f"error: {clean(error.message)}", file=file)
    if error.hint:
        print(f"  hint: {clean(error.hint)}", file=file)
