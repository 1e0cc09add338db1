"""The errors that cross room borders: whose fault something is decides what happens next.

`LocalError`: our bug, crash loudly. `RemoteError`: a peer's fault, score it and drop what it sent.
`UserError`: something the person at the keyboard can mend; printed with what to do, no traceback.
"""

from __future__ import annotations

# Penalty points for a peer (docs/protocol.md, "Penalties"): of 100, half-life 10 minutes.
LOW, MID, HIGH, FATAL = 1, 5, 10, 50


class LocalError(Exception):
    """An invariant of ours does not hold."""


class RemoteError(Exception):
    """A peer sent something wrong, or nothing in time.

    `peer` is its id (empty when unknown) and `penalty` the points it costs; 0 for mere bad luck.
    """

    def __init__(self, reason: str, *, peer: bytes = b"", penalty: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.peer = peer
        self.penalty = penalty


class UserError(Exception):
    """Something the user can mend: what is wrong, and `hint`, the thing to do about it."""

    def __init__(self, message: str, hint: str = "", *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code


class NoLane(RemoteError):
    """The bulk lane to a peer cannot be used now: take streams, and try again after `retry_s`."""

    def __init__(self, reason: str, *, peer: bytes = b"", retry_s: float = 0.0) -> None:
        super().__init__(reason, peer=peer)
        self.retry_s = retry_s
