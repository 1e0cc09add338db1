"""Invites: `primed://[run id]@<multiaddr>,<multiaddr>…`, what one person sends another.

With a run id (64 hex digits) it invites to a run, without to a swarm. Each address names its peer,
so that a wrong host on the way cannot pose as it. Parsing is strict and says what is wrong.
"""

from __future__ import annotations

import re

from msgspec import Struct

from primed.node.addresses import check_dialable
from primed.p2p.errors import UserError

SCHEME = "primed://"
ADDRESSES_MAX = 16
_HINT = "an invite looks like primed://[run id]@/ip4/203.0.113.7/tcp/4101/p2p/12D3Koo…"
_RUN = re.compile(r"[0-9a-f]{64}")


class Invite(Struct, frozen=True):
    run: bytes | None  # None: the swarm
    addresses: tuple[str, ...]  # 1 to 16 multiaddrs ending in /p2p/<peer id>


def parse_invite(text: str) -> Invite:
    """Raises UserError with the reason and the form."""
    if not text.startswith(SCHEME):
        raise UserError(f"an invite begins with {SCHEME}", _HINT)
    run, at, rest = text.removeprefix(SCHEME).partition("@")
    if not at or not rest:
        raise UserError("the invite names no address after its @", _HINT)
    if run and _RUN.fullmatch(run) is None:
        raise UserError("the run id of the invite is not 64 hex digits in lower case", _HINT)
    addresses = rest.split(",", ADDRESSES_MAX)
    if len(addresses) > ADDRESSES_MAX:
        raise UserError(f"an invite has at most {ADDRESSES_MAX} addresses", _HINT)
    try:
        checked = tuple(check_dialable(address) for address in addresses)
    except ValueError as error:
        raise UserError(f"the invite's address {error}", _HINT) from error
    return Invite(bytes.fromhex(run) if run else None, checked)


def format_invite(invite: Invite) -> str:
    """The text of an invite; `parse_invite` gives the same invite back."""
    run = invite.run.hex() if invite.run else ""
    return f"{SCHEME}{run}@{','.join(invite.addresses[:ADDRESSES_MAX])}"
