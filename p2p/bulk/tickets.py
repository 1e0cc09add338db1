"""Tickets: 32 random bytes that admit one peer, once, within seconds, to one conversation.

Pure but for the random bytes. Used by the side that listens, whichever that is: the asker gets its
ticket in the answer, or sends one along with the question.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from primed.p2p import limits
from primed.p2p.errors import HIGH, LOW, RemoteError

C = TypeVar("C")
TICKET_BYTES = 32


@dataclass(frozen=True)
class Ticket(Generic[C]):
    """`admit` takes the channel of the peer that showed it."""

    peer: bytes
    purpose: str
    is_served: bool  # the other side asked: it takes a place of those that we serve
    expires: float
    admit: Callable[[C], None]


class Tickets(Generic[C]):
    """Those issued and not yet shown. Their number is bounded by who issues them."""

    def __init__(self) -> None:
        self._issued: dict[bytes, Ticket[C]] = {}

    def issue(
        self, peer: bytes, purpose: str, admit: Callable[[C], None], now: float, *, is_served: bool
    ) -> bytes:
        token = secrets.token_bytes(TICKET_BYTES)
        expires = now + limits.BULK_TICKET_S
        self._issued[token] = Ticket(peer, purpose, is_served, expires, admit)
        return token

    def redeem(self, token: bytes, peer: bytes, now: float) -> Ticket[C]:
        """The ticket, which is used up, whoever shows it. Raises RemoteError naming `peer`."""
        ticket = self._issued.pop(token, None)
        if ticket is None:
            raise RemoteError("a ticket that is unknown or used", peer=peer, penalty=LOW)
        if ticket.peer != peer:
            raise RemoteError("a ticket of another peer", peer=peer, penalty=HIGH)
        if now > ticket.expires:
            raise RemoteError("an expired ticket", peer=peer)
        return ticket

    def withdraw(self, token: bytes) -> None:
        self._issued.pop(token, None)

    def lapse(self, now: float) -> list[Ticket[C]]:
        """Remove and return those that nobody showed in time."""
        late = [token for token, ticket in self._issued.items() if now > ticket.expires]
        return [self._issued.pop(token) for token in late]

    def served(self) -> list[Ticket[C]]:
        """Those that hold a place to be served."""
        return [ticket for ticket in self._issued.values() if ticket.is_served]

    def __len__(self) -> int:
        return len(self._issued)
