"""The multiaddrs that people type: listen addresses, bootstrap peers, invites.

Only what primed's transport can use is accepted (TCP, directly or through a relay), so that a typing
mistake is found before anything is dialled. Needs no libp2p: the CLI uses this.
"""

from __future__ import annotations

import ipaddress
import re

from primed.p2p import peerid

_DNS = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")
_PORT = re.compile(r"0|[1-9][0-9]{0,4}")
ADDRESS_MAX_CHARS = 512


def check_listen(text: str) -> str:
    """A listen address, `/ip4/0.0.0.0/tcp/4101`. Raises ValueError with the reason."""
    if "p2p" in _parts(text):
        raise ValueError(f"{text!r}: a listen address has no /p2p/ part")
    return text


def check_dialable(text: str) -> str:
    """An address of a peer, `/ip4/…/tcp/…/p2p/<peer id>`. Raises ValueError with the reason."""
    parts = _parts(text)
    if parts[-1:] != ["p2p"] or text.endswith("/tcp/0") or "/tcp/0/" in text:
        raise ValueError(f"{text!r}: an address of a peer ends in /p2p/<peer id> and names a port")
    return text


def _parts(text: str) -> list[str]:
    """Names of the protocols in an address, each value checked."""
    if len(text) > ADDRESS_MAX_CHARS:
        raise ValueError(f"an address has at most {ADDRESS_MAX_CHARS} characters")
    fields = iter(text.split("/"))
    if next(fields) != "":
        raise ValueError(f"{text!r}: an address begins with /")
    names = []
    for name in fields:
        if name != "p2p-circuit" and not _is_value(name, next(fields, "")):
            raise ValueError(f"{text!r}: /{name} is not understood here, or its value is wrong")
        names.append(name)
    if names[:1] not in (["ip4"], ["ip6"], ["dns"], ["dns4"], ["dns6"]) or names[1:2] != ["tcp"]:
        raise ValueError(f"{text!r}: an address looks like /ip4/203.0.113.7/tcp/4101")
    if names[2:] not in ([], ["p2p"], ["p2p", "p2p-circuit", "p2p"]):
        raise ValueError(f"{text!r}: after the port only /p2p/<peer id> can follow")
    return names


def _is_value(name: str, value: str) -> bool:
    match name:
        case "ip4" | "ip6":
            try:
                return ipaddress.ip_address(value).version == int(name[2])
            except ValueError:
                return False
        case "dns" | "dns4" | "dns6":
            return _DNS.fullmatch(value) is not None
        case "tcp":
            return _PORT.fullmatch(value) is not None and int(value) < 65536
        case "p2p":
            return _is_peer(value)
    return False


def _is_peer(text: str) -> bool:
    try:
        return peerid.to_text(peerid.from_text(text)) == text
    except ValueError:
        return False
