"""Access: how others get to us. Measures it, and gets help from relays while nobody can dial us.

The node's own part of `reach` and `relay`: which ports, which peers to ask, what to tell others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

import trio
from libp2p.network.exceptions import SwarmException

from primed.p2p import addresses
from primed.p2p.connections import Connections
from primed.p2p.errors import RemoteError
from primed.p2p.network import Stream
from primed.p2p.peerbook import PeerBook
from primed.p2p.reach import PROTOCOL, Answers, Reach
from primed.p2p.reachability import Kind, Reachability
from primed.p2p.relay import HOP
from primed.p2p.relay.circuit import CircuitConnection
from primed.p2p.stack import Stack


class Access:
    """Lives as long as the network; `attach` tells it of each new stack, `attach(None)` of the end."""

    def __init__(
        self,
        connections: Connections,
        book: PeerBook,
        open_stream: Callable[[bytes, str], Awaitable[Stream]],
    ) -> None:
        self._connections = connections
        self._book = book
        self._stack: Stack | None = None
        self.reach = Reach(self.ports, self.witnesses, open_stream)
        self.answer = Answers(self._ip_of, self._knock).answer

    def attach(self, stack: Stack | None) -> None:
        self._stack = stack

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            if not self.is_local():
                nursery.start_soon(self.reach.run)
            if self._stack is not None:
                relays = self._stack.relays
                nursery.start_soon(relays.keep_reservations, self._wants_relays)

    def describe(self) -> Reachability:
        if self.is_local():
            return Reachability(Kind.LOCAL, "it listens on this machine only")
        found = self.reach.result
        relayed = self._stack.relays.addresses() if self._stack else []
        if found.kind is Kind.OUTBOUND and relayed:
            evidence = f"{found.evidence}; {len(relayed)} relays hold a place for it"
            return Reachability(Kind.RELAYED, evidence, relayed[0])
        return found

    def is_local(self) -> bool:
        own = [str(address) for address in self._stack.listening()] if self._stack else []
        return bool(own) and all(map(addresses.is_loopback, own))

    def ports(self) -> list[int]:
        own = map(str, self._stack.listening() if self._stack else ())
        return sorted({int(address.split("/")[4]) for address in own})

    def witnesses(self) -> list[bytes]:
        """Connected peers that dial back, those of many networks first."""
        return self._first_of_many_networks(PROTOCOL)

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
