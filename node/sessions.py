"""The sessions of this data directory: one random number a life of the daemon, the last few kept.

They count only on the machine and in the place where they were written: a copied directory has
another place, and its copy must not take the original's life for its own past.
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

import msgspec

KEPT = 16
_MACHINE = Path("/etc/machine-id")


class _File(msgspec.Struct):
    place: str
    sessions: list[bytes]


def begin(path: Path) -> tuple[bytes, frozenset[bytes]]:
    """A new session, and the former ones of this place. Writes nothing: `note` does."""
    return secrets.token_bytes(16), frozenset(_former(path, _place(path.parent)))


def note(path: Path, session: bytes) -> None:
    """Add a session to the file. The data directory's lock must be held. Raises OSError without
    room; of a session that is never noted the next one only believes that it may still live, and
    waits a lease."""
    place = _place(path.parent)
    former = _former(path, place)
    draft = path.with_name(f".{path.name}.new")
    draft.write_bytes(msgspec.json.encode(_File(place, [*former[1 - KEPT :], session])))
    draft.replace(path)


def _former(path: Path, place: str) -> list[bytes]:
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
    except (FileNotFoundError, msgspec.DecodeError):
        return []
    return file.sessions if file.place == place else []


def _place(folder: Path) -> str:
    """Names the machine and the directory, not where it is mounted."""
    status = folder.stat()
    machine = _MACHINE.read_bytes().strip() if _MACHINE.is_file() else b""
    text = b"%s %d %d" % (machine, status.st_dev, status.st_ino)
    return hashlib.sha256(text).hexdigest()
