"""Multiaddrs as text: which ones can be dialled, and whose they are. No libp2p needed.

Only `/ip4|ip6|dns|dns4|dns6/<host>/tcp/<port>[/p2p/<relay>/p2p-circuit][/p2p/<peer>]` is spoken
here (TCP is the one transport); everything else a peer may announce is ignored.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

from primed.p2p import limits, peerid
from primed.p2p.errors import UserError

_FORM = re.compile(
    r"/(?P<kind>ip4|ip6|dns|dns4|dns6)/(?P<host>[0-9A-Za-z.:-]{1,253})/tcp/(?P<port>[0-9]{1,5})"
    r"(?:/p2p/(?P<relay>[1-9A-HJ-NP-Za-km-z]{1,128})/p2p-circuit)?"
    r"(?:/p2p/(?P<peer>[1-9A-HJ-NP-Za-km-z]{1,128}))?"
)


def split(address: str) -> tuple[str, bytes]:
    """(all before the last /p2p/, peer id or b""). Raises ValueError if it cannot be dialled."""
    match = _FORM.fullmatch(address)
    if match is None:
        raise ValueError(f"not a TCP multiaddr: {address[:200]!r}")
    if match["kind"] in ("ip4", "ip6"):
        ip = ipaddress.ip_address(match["host"])
        if ip.version != int(match["kind"][2]) or ip.is_multicast:
            raise ValueError(f"not an address to dial: {address[:200]!r}")
    if int(match["port"]) > 65535:
        raise ValueError(f"no such port: {address[:200]!r}")
    if match["relay"]:
        peerid.from_text(match["relay"])
    peer = peerid.from_text(match["peer"]) if match["peer"] else b""
    return address.removesuffix(f"/p2p/{match['peer']}"), peer


def with_peer(address: str) -> tuple[str, bytes]:
    """Like `split`, for addresses that must name their peer. Raises UserError."""
    try:
        transport, peer = split(address)
    except ValueError as error:
        raise UserError(str(error), "expected /ip4/<ip>/tcp/<port>/p2p/<peer id>") from error
    if not peer:
        raise UserError(f"no /p2p/<peer id> in {address}", "copy the whole address")
    return transport, peer


def dialable(address: str) -> str | None:
    """The transport part, or None for what is of no use: other transports, port 0, 0.0.0.0."""
    try:
        transport, _ = split(address)
    except ValueError:
        return None
    kind, host, _, port = transport.split("/")[1:5]
    if port == "0" or (kind in ("ip4", "ip6") and ipaddress.ip_address(host).is_unspecified):
        return None
    return transport


def relay_of(transport: str) -> bytes:
    """The relay that an address leads through, b"" if it leads through none."""
    way, is_circuit, _ = transport.partition("/p2p-circuit")
    return peerid.from_text(way.rpartition("/p2p/")[2]) if is_circuit else b""


def circuit(transport: str, relay: bytes) -> str:
    """The address that a relay at `transport` gives to a peer it holds a place for."""
    return f"{transport}/p2p/{peerid.to_text(relay)}/p2p-circuit"


def is_loopback(transport: str) -> bool:
    kind, host = transport.split("/")[1:3]
    return kind in ("ip4", "ip6") and ipaddress.ip_address(host).is_loopback


def at(ip: str, port: int) -> str:
    """The multiaddr of a TCP port."""
    return f"/ip{ipaddress.ip_address(ip).version}/{ip}/tcp/{port}"


def kind_of(ip: str) -> tuple[int, bool, bool]:
    """(version, is it loopback, is it all of them): what can reach what."""
    address = ipaddress.ip_address(ip)
    return address.version, address.is_loopback, address.is_unspecified


@lru_cache(maxsize=2 * limits.PEERS_KNOWN * limits.ADDRESSES_PER_PEER)
def networks(transport: str) -> tuple[str, str]:
    """The subnet (/24, /48) and the network (/16, /32) of an address; all names share one.

    What the peer book counts by: addresses cost an attacker little within a network that it has,
    and much in many networks. Names cost nothing anywhere. The book asks for all that it holds each
    time it chooses whom to dial, so that they are remembered.
    """
    kind, host = transport.split("/")[1:3]
    if kind not in ("ip4", "ip6"):
        return "names", "names"
    return subnet(host), network(host)


def network(ip: str) -> str:
    """The /16 (IPv4) or /32 (IPv6) an IP belongs to."""
    prefix = 16 if ipaddress.ip_address(ip).version == 4 else 32
    return str(ipaddress.ip_network(f"{ip}/{prefix}", strict=False))


def subnet(ip: str) -> str:
    """The /24 (IPv4) or /48 (IPv6) an IP belongs to."""
    address = ipaddress.ip_address(ip)
    prefix = 24 if address.version == 4 else 48
    return str(ipaddress.ip_network(f"{ip}/{prefix}", strict=False))
