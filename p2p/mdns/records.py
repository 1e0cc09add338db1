"""The text of a record: addresses out, and hints in. Pure, and total over any bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Interface

from primed.p2p import addresses, limits, peerid
from primed.p2p.links import is_on

_ADDRESS = re.compile(rb"dnsaddr[0-9]{0,3}=([\x21-\x7e]+)")  # py-libp2p numbers them
Hint = tuple[bytes, tuple[str, ...]]  # peer id, addresses without it


def encode(peer: bytes, transports: Iterable[str]) -> bytes:
    """TXT data that tells these addresses."""
    own = peerid.to_text(peer)
    texts = [f"dnsaddr={transport}/p2p/{own}".encode() for transport in transports]
    return b"".join(bytes([len(text)]) + text for text in texts[: limits.ADDRESSES_PER_PEER])


def decode(data: bytes, links: Iterable[IPv4Interface]) -> Hint | None:
    """The peer that the TXT data names first and those of its addresses that are on our links:
    nobody can send us elsewhere. None if there are none."""
    on_link, peers = list(links), set()
    found: list[str] = []
    for text in _strings(data):
        if (match := _ADDRESS.fullmatch(text)) is None:
            continue
        try:
            transport, peer = addresses.split(match[1].decode("ascii"))
        except ValueError:
            continue
        kind, host = transport.split("/")[1:3]
        if not peer or addresses.relay_of(transport) or kind != "ip4" or not is_on(on_link, host):
            continue
        peers.add(peer)
        found.append(transport)
    if len(peers) != 1:
        return None
    return peers.pop(), tuple(found[: limits.ADDRESSES_PER_PEER])


def _strings(data: bytes) -> Iterator[bytes]:
    """The length-prefixed strings of TXT data, as far as they go."""
    at = 0
    while at < len(data):
        yield data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]
