"""The search for gateways: a question to everybody on a link, and where the answers point to."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Interface
from typing import NamedTuple
from urllib.parse import urlsplit

import trio

from primed.p2p import limits
from primed.p2p.links import is_on

GROUP = ("239.255.255.250", 1900)
_DEVICES = tuple(f"urn:schemas-upnp-org:device:InternetGatewayDevice:{n}" for n in (1, 2))
_DATAGRAM_BYTES, _DATAGRAMS = 2048, 1024  # one, and those that are looked at
_HOPS = 2


class Place(NamedTuple):
    """A page on a device of the link."""

    ip: str
    port: int
    target: str  # path and query


async def search(link: IPv4Interface) -> list[Place]:
    """Descriptions of the gateways that answer on a link. Raises OSError."""
    found: list[Place] = []
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        await sock.bind((str(link.ip), 0))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, link.ip.packed)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, struct.pack("b", _HOPS))
        for device in _DEVICES:
            await sock.sendto(_question(device), GROUP)
        with trio.move_on_after(limits.UPNP_SEARCH_S):
            for _ in range(_DATAGRAMS):
                data, (ip, _port) = await sock.recvfrom(_DATAGRAM_BYTES)
                place = read_answer(data, ip) if is_on([link], ip) else None
                if place is not None and place not in found[: limits.UPNP_ANSWERS]:
                    found.append(place)
    return found[: limits.UPNP_ANSWERS]


def _question(device: str) -> bytes:
    seconds = int(limits.UPNP_SEARCH_S / 2)
    lines = ("M-SEARCH * HTTP/1.1", f"HOST: {GROUP[0]}:{GROUP[1]}", 'MAN: "ssdp:discover"')
    return "\r\n".join([*lines, f"MX: {seconds}", f"ST: {device}", "", ""]).encode()


def read_answer(data: bytes, sender: str) -> Place | None:
    """Where a gateway's description is; None for anything else. Pure."""
    first, *lines = data.decode("latin-1").split("\r\n")
    if not first.startswith("HTTP/1.1 200"):
        return None
    fields = {
        name.strip().lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)
    }
    if fields.get("st") not in _DEVICES:
        return None
    return place_of(fields.get("location", ""), sender)


def place_of(url: str, owner: str) -> Place | None:
    """The page of an http URL; None unless it is the owner's own. Pure."""
    if len(url) > limits.UPNP_URL_CHARS or not url.isascii() or not url.isprintable() or " " in url:
        return None
    try:
        parts = urlsplit(url)
        port = parts.port or 80
    except ValueError:
        return None
    if parts.scheme != "http" or parts.netloc not in (owner, f"{owner}:{port}"):
        return None
    return Place(owner, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
