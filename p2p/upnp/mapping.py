"""Keeps one port of a router pointed at ours: found, asked, asked again before the lease ends,
and taken back. Nothing here fails; what did not work is a sentence for people.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Interface

import trio

from primed.p2p import limits
from primed.p2p.errors import RemoteError
from primed.p2p.links import default_gateways, links
from primed.p2p.upnp.gateway import ONLY_FOR_EVER, TAKEN, Fault, Gateway, gateways_at
from primed.p2p.upnp.ssdp import Place, search

_log = logging.getLogger(__name__)
_PORTS = range(1024, 65536)


@dataclass(frozen=True)
class Mapping:
    """The router at `gateway` says that it leads `ip`:`port` to `inner`."""

    gateway: Gateway
    ip: str
    port: int
    inner: tuple[str, int]
    asked_at_s: float
    lease_s: int  # 0: until it is taken back

    def __str__(self) -> str:
        ip, port = self.inner
        return f"the router {self.gateway.control.ip} leads its port {self.port} to {ip}:{port}"


class PortMapper:
    """`listening`: multiaddrs of our sockets."""

    def __init__(self, listening: Callable[[], list[str]]) -> None:
        self._listening = listening
        self._again_at_s = -math.inf
        self.mapping: Mapping | None = None
        self.state = "no router has been asked"

    def describe(self) -> str:
        """How it stands, in one sentence."""
        if (held := self.mapping) is None:
            return self.state
        return f"{held} (it says that its own address is {held.ip})"

    async def keep(self, port: int) -> Mapping | None:
        """The mapping to this port of ours: the one that holds, or that could be had now."""
        if self.mapping is not None:
            await self._renew(self.mapping)
        if self.mapping is None and trio.current_time() >= self._again_at_s:
            self._again_at_s = trio.current_time() + limits.UPNP_AGAIN_S
            await self._find(port)
        return self.mapping

    async def drop(self, why: str, *, is_end: bool = False) -> None:
        """Take the mapping back; also while being cancelled. After the end of one life of the network
        the next one may search at once."""
        held, self.mapping, self.state = self.mapping, None, why
        if is_end:
            self._again_at_s = -math.inf
        if held is None:
            return
        with trio.move_on_after(limits.UPNP_ANSWER_S) as scope:
            scope.shield = True
            try:
                await held.gateway.unmap(held.port)
            except RemoteError as error:
                _log.info("the mapping of port %d stays: %s", held.port, error.reason)

    async def _renew(self, held: Mapping) -> None:
        now_s = trio.current_time()
        if now_s < held.asked_at_s + limits.UPNP_LEASE_S / 4:
            return
        try:
            await held.gateway.map(held.port, *held.inner, held.lease_s)
        except RemoteError as error:
            self.mapping, self.state = None, f"the router dropped the mapping: {error.reason}"
        else:
            self.mapping = replace(held, asked_at_s=now_s)

    async def _find(self, port: int) -> None:
        here = links(self._listening())
        self.state = (
            f"no router answers on {', '.join(str(link.ip) for link in here) or 'any link'}"
        )
        with trio.move_on_after(limits.UPNP_FIND_S) as patience:
            for link, place in await self._places(here):
                try:
                    self.mapping = await _mapped(place, str(link.ip), port)
                    _log.info("%s", self.describe())
                    return
                except RemoteError as error:
                    self.state = f"the router {place.ip} is of no use: {error.reason}"
        if patience.cancelled_caught:
            self.state += f"; given up after {limits.UPNP_FIND_S:.0f} s"

    async def _places(self, here: list[IPv4Interface]) -> list[tuple[IPv4Interface, Place]]:
        """Descriptions to read, those of default gateways first."""
        found: list[tuple[IPv4Interface, Place]] = []

        async def look(link: IPv4Interface) -> None:
            try:
                found.extend((link, place) for place in await search(link))
            except OSError as error:
                self.state = f"no router can be searched for on {link.ip}: {error}"

        async with trio.open_nursery() as nursery:
            for link in here:
                nursery.start_soon(look, link)
        first = default_gateways()
        return sorted(found, key=lambda pair: (pair[1].ip not in first, pair[0]))


async def _mapped(place: Place, ip: str, port: int) -> Mapping:
    """Raises RemoteError with the reason of the last connection tried."""
    failure = RemoteError("it offers nothing")
    for gateway in await gateways_at(place):
        try:
            outside = await gateway.outside()
            if not ipaddress.ip_address(outside).is_global:
                raise RemoteError(f"it is behind another router itself, at {outside}")
            return await _asked(gateway, outside, ip, port)
        except RemoteError as error:
            failure = error
    raise failure


async def _asked(gateway: Gateway, outside: str, ip: str, port: int) -> Mapping:
    """Raises RemoteError if the gateway maps no port of it."""
    lease_s, untried = limits.UPNP_LEASE_S, _candidates(port)
    outer = next(untried)
    while True:
        now_s = trio.current_time()
        try:
            await gateway.map(outer, ip, port, lease_s)
            return Mapping(gateway, outside, outer, (ip, port), now_s, lease_s)
        except Fault as fault:
            if fault.code == ONLY_FOR_EVER and lease_s:
                lease_s = 0
            elif fault.code != TAKEN or (outer := next(untried, 0)) == 0:
                raise


def _candidates(port: int) -> Iterator[int]:
    """Our own port, then some that hardly anybody else has."""
    yield port
    yield from random.sample(_PORTS, limits.UPNP_PORTS - 1)
