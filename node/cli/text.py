"""Plain text for terminals: styles, tables, durations. (rich would take half of the CPU time that
`primed status` may cost.)

What peers wrote may reach a screen, so control characters never do.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from primed.node.views import TransferView

_CODES = {"bold": "1", "red": "31", "green": "32", "yellow": "33"}


def styled(text: object, style: str) -> str:
    """The text in bold or a colour, if a terminal shows it."""
    plain = clean(text)
    return f"\x1b[{_CODES[style]}m{plain}\x1b[0m" if _has_colours() else plain


def _has_colours() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def clean(text: object) -> str:
    """Without characters that could move the cursor or change what is on the screen."""
    return "".join(char if char.isprintable() else "?" for char in str(text))


def clean_lines(text: str) -> str:
    """The same for a text of several lines."""
    return "\n".join(map(clean, text.split("\n")))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], otherwise: str) -> None:
    """Columns as wide as they need to be, the last one open; `otherwise` if there are no rows."""
    cells = [[clean(cell) for cell in row] for row in rows]
    if not cells:
        print(otherwise)
        return
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    print(styled(_line(columns, widths), "bold"))
    for row in cells:
        print(_line(row, widths))


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(map(str.ljust, row, widths)).rstrip()


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def mib(size_bytes: float) -> str:
    return f"{size_bytes / 2**20:.1f} MiB"


def progress_of(transfer: TransferView) -> str:
    """ "26.9 MiB of 64.0 MiB, 1.5 MiB/s, 25 s left"."""
    text = f"{mib(transfer.here_bytes)} of {mib(transfer.size_bytes)}"
    if transfer.left_s is None:
        return text
    return f"{text}, {mib(transfer.bytes_per_s)}/s, {duration(transfer.left_s)} left"


def bar(share: float, width: int = 20) -> str:
    full = int(width * min(1.0, share))
    return f"[{'#' * full}{'-' * (width - full)}] {share:4.0%}"


def duration(seconds: float) -> str:
    """1.5 -> "2 s", 100 -> "1 min 40 s", 4000 -> "1 h 6 min", 200000 -> "2 d 7 h"."""
    whole = round(max(0.0, seconds))
    units = ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
    for size, name, smaller, smaller_name in units:
        if whole >= size:
            return f"{whole // size} {name} {whole % size // smaller} {smaller_name}"
    return f"{whole} s"
