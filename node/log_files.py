"""Reading the node's log files back: the last lines, from some level on, and what comes next.

logs/daemon.log holds one JSON object a line; a child's log is whatever it printed. Called by
`primed logs` and by the support bundle; needs no daemon.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from primed.p2p.errors import UserError

LEVELS = ("debug", "info", "warning", "error", "critical")
TAIL_MAX_BYTES = 16 * 1024 * 1024
POLL_S = 0.25
_SHOWN_FIRST = ("timestamp", "level", "event", "logger", "exception")


def find_log(folder: Path, child: str | None) -> Path:
    """The daemon's log, or that of the one child whose name begins so. Raises UserError."""
    if child is None:
        path = folder / "daemon.log"
        if not path.is_file():
            raise UserError(f"there is no log at {path}", "a daemon writes it: primed start")
        return path
    names = sorted(p.stem for p in folder.glob("*.log") if "." not in p.stem and p.stem != "daemon")
    found = [name for name in names if name.startswith(child)]
    if child in names or len(found) == 1:
        return folder / f"{child if child in names else found[0]}.log"
    text = f"{'no child has' if not found else 'several children have'} a log called {child!r}"
    raise UserError(text, f"there are: {', '.join(names) or 'none yet'}")


def tail(path: Path, lines: int, is_wanted: Callable[[str], bool]) -> tuple[list[str], int]:
    """The last wanted lines, oldest first, and where the file ended."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - TAIL_MAX_BYTES))
        text = file.read(end - file.tell()).decode(errors="replace")
    kept = deque((line for line in text.splitlines() if is_wanted(line)), maxlen=lines)
    return list(kept), end


def follow(
    path: Path,
    at: int,
    is_wanted: Callable[[str], bool],
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[str]:
    """Wanted lines as they are written, across rotation, for ever."""
    rest, inode = b"", _inode(path)
    while True:
        with path.open("rb") as file:
            file.seek(at)
            data = file.read()
            at = file.tell()
        *whole, rest = (rest + data).split(b"\n")
        yield from filter(is_wanted, (line.decode(errors="replace") for line in whole))
        if not data:
            pause(POLL_S)
            if _inode(path) != inode or path.stat().st_size < at:
                at, rest, inode = 0, b"", _inode(path)


def _inode(path: Path) -> int:
    """Of the file that has this name now; a rotated one is replaced in a moment."""
    while True:
        try:
            return path.stat().st_ino
        except FileNotFoundError:
            time.sleep(POLL_S)


def from_level(level: str) -> Callable[[str], bool]:
    """Whether a line is at least of this level. A line that is not JSON is of no level: kept."""
    wanted = LEVELS[LEVELS.index(level) :]

    def is_wanted(line: str) -> bool:
        entry = parsed(line)
        return entry is None or entry.get("level", wanted[0]) in wanted

    return is_wanted


def parsed(line: str) -> dict[str, object] | None:
    """The entry of a line; None if the line is none."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def as_text(line: str) -> str:
    """An entry as people read it; another line as it is."""
    entry = parsed(line)
    if entry is None:
        return line
    values = " ".join(f"{k}={v}" for k, v in entry.items() if k not in _SHOWN_FIRST)
    time_, level = str(entry.get("timestamp", ""))[:19].replace("T", " "), entry.get("level", "")
    text = f"{time_} {level:<8}{entry.get('event', '')}  {values}".rstrip()
    trace = entry.get("exception")
    return f"{text}\n{trace}" if trace else text
