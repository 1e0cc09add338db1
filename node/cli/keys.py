"""Moving an identity: id export, id import. The passphrase comes from the terminal, a file, or stdin
if that is no terminal; never from the command line, where every user of the machine could read it."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from primed.node.cli.options import COMMON, Common, show_json
from primed.node.local_views import KeyFileView
from primed.p2p.errors import UserError

PASSPHRASE_MAX_BYTES = 4096
PassphraseFile = Annotated[
    Path | None, Parameter(help="Its first line is the passphrase [the terminal, or stdin].")
]


def export(
    file: Annotated[Path, Parameter(help="The new file.")],
    *,
    passphrase_file: PassphraseFile = None,
    common: Common = COMMON,
) -> None:
    """Write this node's identity into a file, encrypted with a passphrase."""
    from primed.node import key_export
    from primed.p2p import identity, peerid

    mine = identity.load(common.paths.identity)
    key_export.export(mine, file, _passphrase(passphrase_file, is_new=True))
    view = KeyFileView(peer=peerid.to_text(mine.peer), file=str(file))
    if not show_json(view, common):
        print(f"{view.peer}\n  written to {file}; without the passphrase it is worth nothing")


def import_(
    file: Annotated[Path, Parameter(help="A file that id export made.")],
    *,
    passphrase_file: PassphraseFile = None,
    common: Common = COMMON,
) -> None:
    """Make an exported identity the one of this data directory, which must have none."""
    from primed.node import key_export
    from primed.p2p import identity, peerid

    paths = common.paths
    if paths.identity.exists():
        text = f"there is an identity already: {paths.identity}"
        raise UserError(text, "use another --data-dir, or move that file away first")
    imported = key_export.read(file, _passphrase(passphrase_file, is_new=False))
    paths.create()
    identity.keep(imported, paths.identity)
    view = KeyFileView(peer=peerid.to_text(imported.peer), file=str(paths.identity))
    if not show_json(view, common):
        print(f"{view.peer}\n  one key, one machine: stop the node that had it before")


def _passphrase(file: Path | None, *, is_new: bool) -> str:
    """Raises UserError if there is none to be had."""
    if file is not None or not sys.stdin.isatty():
        return _first_line(file)
    from getpass import getpass

    entered = getpass("passphrase: ")
    if is_new and getpass("again: ") != entered:
        raise UserError("the two passphrases differ")
    return entered


def _first_line(file: Path | None) -> str:
    try:
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(file.open("rb")) if file else sys.stdin.buffer
            line = source.readline(PASSPHRASE_MAX_BYTES).decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the passphrase from {file or 'stdin'}") from error
    if not line:
        hint = "run it in a terminal, give --passphrase-file, or pipe it in"
        raise UserError("no passphrase was given", hint)
    return line
