"""The local networks that a node is on, as far as it listens on them (IPv4).

mDNS and UPnP speak on these and believe nothing about other networks. A node that listens on
loopback only is on the loopback network; one that listens everywhere is not.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Interface, ip_address
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from primed.p2p import limits

_ANY = IPv4Address("0.0.0.0")
_ROUTES = Path("/proc/net/route")


def links(listening: Iterable[str]) -> list[IPv4Interface]:
    """Our address and its network, for each link that these addresses listen on."""
    heard = {ip for address in listening if (ip := _ip4_of(address)) is not None}
    own = list(_interfaces())
    if _ANY in heard:
        found = {link for link in own if not link.is_loopback}
    else:
        found = {
            IPv4Interface(f"{ip}/{link.network.prefixlen}")
            for ip in heard
            for link in own
            if ip in link.network
        }
    return sorted(found)[: limits.LINKS]


def _ip4_of(address: str) -> IPv4Address | None:
    kind, host = address.split("/")[1:3]
    return IPv4Address(host) if kind == "ip4" else None


def _interfaces() -> Iterable[IPv4Interface]:
    """Those that are up and can be spoken to as a whole; none if the system does not tell."""
    try:
        states, known = psutil.net_if_stats(), psutil.net_if_addrs()
    except OSError:
        return
    for name, told in known.items():
        state = states.get(name)
        if not (state and state.isup and {"multicast", "loopback"} & set(state.flags.split(","))):
            continue
        for each in told:
            if each.family.name == "AF_INET" and each.netmask:
                yield IPv4Interface(f"{each.address}/{each.netmask}")


def transports(listening: Iterable[str], links: Iterable[IPv4Interface]) -> list[str]:
    """Where peers on these links can dial us."""
    ours = [str(link.ip) for link in links]
    found = []
    for address in listening:
        kind, host, _, port = address.split("/")[1:5]
        hosts = ours if host == str(_ANY) else [host] if host in ours else []
        found += [f"/{kind}/{each}/tcp/{port}" for each in hosts]
    return list(dict.fromkeys(found))


def is_on(links: Iterable[IPv4Interface], ip: str) -> bool:
    """Whether the IP is on one of these networks."""
    try:
        address = ip_address(ip)
    except ValueError:
        return False
    return any(address in link.network for link in links)


def default_gateways() -> set[str]:
    """Routers that the system sends everything else to, where it tells (Linux)."""
    try:
        rows = [line.split() for line in _ROUTES.read_text().splitlines()[1:]]
    except OSError:
        return set()
    return {
        str(IPv4Address(bytes.fromhex(gateway)[::-1]))
        for _, destination, gateway, *_ in rows
        if destination == "00000000" and gateway != "00000000"
    }
