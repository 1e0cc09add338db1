"""Access: how others get to us. Measures it, and gets help from the router and from relays while
nobody can dial us.

The node's own part of `reach`, `upnp` and `relay`: which ports, which peers to ask, what to tell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

import trio
from libp2p.network.exceptions import SwarmException

from primed.p2p import addresses, limits
from primed.p2p.connections import Connections
from primed.p2p.errors import RemoteError
from primed.p2p.links import is_on, links
from primed.p2p.network import Stream
from primed.p2p.peerbook import PeerBook
from primed.p2p.reach import MEASURE_S, PROTOCOL, Answers, Reach
from primed.p2p.reachability import Kind, Reachability
from primed.p2p.relay import HOP
from primed.p2p.relay.circuit import CircuitConnection
from primed.p2p.stack import Stack
from primed.p2p.upnp import Mapping, PortMapper
from primed.p2p.waits import OpenWaits


class Access:
    """Lives as long as the network; `attach` tells it of each new stack, `attach(None)` of the end."""

    def __init__(
        self,
        connections: Connections,
        book: PeerBook,
        open_stream: Callable[[bytes, str], Awaitable[Stream]],
        *,
        waits: OpenWaits,
        upnp: bool,
        announces: bool,
    ) -> None:
        self._waits = waits
        self._announces = announces
        self._mapper = PortMapper(self.listening) if upnp else None
        self._connections = connections
        self._book = book
        self._stack: Stack | None = None
        self.reach = Reach(self.ports, self.witnesses, open_stream)
        self.answer = Answers(self._ip_of, self._knock).answer

    def attach(self, stack: Stack | None) -> None:
        self._stack = stack

    async def run(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                if not self.is_local():
                    nursery.start_soon(self._keep_looking)
                if self._stack is not None:
                    relays = self._stack.relays
                    nursery.start_soon(relays.keep_reservations, self._wants_relays)
        finally:
            if self._mapper is not None:
                await self._mapper.drop("the network is not running", is_end=True)

    async def _keep_looking(self) -> None:
        """Measure when there are peers to ask, and again now and then."""
        await trio.sleep(limits.REACH_FIRST_S)
        while True:
            await self.look()
            known = self.reach.result.kind is not Kind.UNKNOWN
            await trio.sleep(limits.REACH_AGAIN_S if known else limits.REACH_RETRY_S)

    async def look(self) -> None:
        """Measure whether others can dial us; if not, have the router help, and measure that."""
        mapper = self._mapper
        if mapper is None or mapper.mapping is None:
            await self._measure()
        if mapper is None:
            return
        held = mapper.mapping
        if held is None and (why := self._why_no_mapping()):
            mapper.state = f"no router is asked: {why}"
            return
        if (mapping := await self._keep_mapping(mapper)) is None:
            if held is not None:
                self.reach.forget(mapper.state)
            return
        if held is None:
            self.reach.forget(f"{mapping}, and nobody has dialled back yet")
        if (found := await self._measure(mapping.port)).kind is Kind.OUTBOUND:
            await mapper.drop(f"{mapping}, but {found.evidence}")

    async def _measure(self, port: int | None = None) -> Reachability:
        with self._waits.named("a dial back", "peers that say where they reach us", MEASURE_S):
            return await self.reach.measure(port)

    async def _keep_mapping(self, mapper: PortMapper) -> Mapping | None:
        within_s = limits.UPNP_ANSWER_S + limits.UPNP_FIND_S
        with self._waits.named("a port of the router", "an answer to UPnP", within_s):
            return await mapper.keep(self.ports()[0])

    def _why_no_mapping(self) -> str:
        if self.reach.result.kind is Kind.PUBLIC:
            return "others can dial this node without it"
        if self._announces:
            return "it announces other addresses"
        if not self.ports():
            return "it listens at no address"
        public = [link.ip for link in links(self.listening()) if link.is_global]
        return f"this machine has a public address, {public[0]}" if public else ""

    def describe(self) -> Reachability:
        if self.is_local():
            return Reachability(Kind.LOCAL, "it listens on this machine only")
        found = self.reach.result
        mapping = self._mapper.mapping if self._mapper else None
        if found.kind is Kind.PUBLIC and mapping is not None:
            return Reachability(Kind.UPNP, f"{found.evidence}; {mapping}", found.address)
        relayed = self._stack.relays.addresses() if self._stack else []
        if found.kind is Kind.OUTBOUND and relayed:
            evidence = f"{found.evidence}; {len(relayed)} relays hold a place for it"
            return Reachability(Kind.RELAYED, evidence, relayed[0])
        return found

    def describe_mapping(self) -> str:
        """How it stands with the router, in one sentence."""
        if self._mapper is None:
            return "off"
        if self.is_local():
            return "no router is asked: it listens on this machine only"
        return self._mapper.describe()

    def mapped_addresses(self) -> list[str]:
        """Where the router lets others in: as they have seen it, else as it says."""
        mapping = self._mapper.mapping if self._mapper else None
        if mapping is None:
            return []
        seen = self.reach.result
        return [
            seen.address if seen.kind is Kind.PUBLIC else addresses.at(mapping.ip, mapping.port)
        ]

    def is_local(self) -> bool:
        own = self.listening()
        return bool(own) and all(map(addresses.is_loopback, own))

    def listening(self) -> list[str]:
        """The addresses of our sockets."""
        return [str(address) for address in self._stack.listening()] if self._stack else []

    def ports(self) -> list[int]:
        return sorted({int(address.split("/")[4]) for address in self.listening()})

    def witnesses(self) -> list[bytes]:
        """Connected peers that dial back, those of many networks first. Those behind the same
        router do not see what it lets in."""
        found = self._first_of_many_networks(PROTOCOL)
        if self._mapper is None or self._mapper.mapping is None:
            return found
        here = links(self.listening())
        return [peer for peer in found if not is_on(here, self._ip_of(peer) or "")]

    def relay_candidates(self) -> list[bytes]:
        return self._first_of_many_networks(HOP)

    def relay_address(self, peer: bytes) -> str | None:
        """Where others could dial a relay: as we did, else where it says that it is."""
        dialled = self._stack.swarm.dialled_address(peer) if self._stack else None
        told = (a for a in self._book.addresses_of(peer) if not addresses.relay_of(a))
        return dialled or next(told, None)

    async def call(self, relay: bytes, peer: bytes) -> CircuitConnection:
        if self._stack is None:
            raise SwarmException("the network is not running")
        return await self._stack.relays.call(relay, peer)

    def _wants_relays(self) -> bool:
        return self.reach.result.kind is Kind.OUTBOUND

    def _first_of_many_networks(self, protocol: str) -> list[bytes]:
        if (stack := self._stack) is None:
            return []
        direct = (p for p in self._connections.peers() if stack.swarm.ip_of(p))
        able = [p for p in direct if protocol in stack.host.protocols_of(p)]
        chosen = self._connections.chosen()
        seen: Counter[str] = Counter()
        order = []
        for peer in sorted(able, key=lambda p: p not in chosen):
            network = self._connections.network_of(peer)
            order.append((seen[network], peer))
            seen[network] += 1
        return [peer for _, peer in sorted(order, key=lambda pair: pair[0])]

    def _ip_of(self, peer: bytes) -> str | None:
        return self._stack.swarm.ip_of(peer) if self._stack else None

    async def _knock(self, peer: bytes, ip: str, port: int) -> None:
        if self._stack is None:
            raise RemoteError("the network is not running", peer=peer)
        try:
            await self._stack.swarm.knock(peer, ip, port)
        except SwarmException as error:
            raise RemoteError(str(error), peer=peer) from error
