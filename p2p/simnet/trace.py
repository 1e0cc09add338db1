"""What happened in a simulated run, in order: the record that two runs of a seed must share."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

import trio


class Trace:
    """Entries are (seconds, who, what, details). Bytes are shown as hex digits."""

    def __init__(self) -> None:
        self._entries: list[tuple[float, str, str, tuple[object, ...]]] = []

    def note(self, who: str, what: str, *details: object) -> None:
        self._entries.append((trio.current_time(), who, what, details))

    def lines(self) -> Iterator[str]:
        for at_s, who, what, details in self._entries:
            yield " ".join([f"{at_s:10.4f}", who, what, *map(_shown, details)])

    def digest(self) -> str:
        """Hex; equal for equal runs."""
        hasher = sha256()
        for line in self.lines():
            hasher.update(line.encode() + b"\n")
        return hasher.hexdigest()

    def __len__(self) -> int:
        return len(self._entries)


def _shown(detail: object) -> str:
    return detail.hex()[:16] if isinstance(detail, bytes) else str(detail)
