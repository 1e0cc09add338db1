"""One life of the libp2p services: built, started in order, taken down without a trace.

The library leaks sockets unless connections are closed before its services stop, and raises groups
of "Nursery is closed" while they do. Both end here: errors before the stop are real and pass, errors
during it are logged.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Protocol

import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.network.connection import swarm_connection
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr  # type: ignore[import-untyped]
from multiaddr.utils import get_thin_waist_addresses  # type: ignore[import-untyped]

from primed.p2p import addresses, limits
from primed.p2p.discovery import Discovery
from primed.p2p.errors import UserError
from primed.p2p.gossip import Gossip
from primed.p2p.guard import GuardedHost
from primed.p2p.identity import Identity
from primed.p2p.network import Traffic
from primed.p2p.peerbook import PeerBook
from primed.p2p.relay.client import RelayClient
from primed.p2p.relay.server import RelayServer
from primed.p2p.router import Router
from primed.p2p.swarm import GuardedSwarm, Policy
from primed.p2p.topics import Topics
from primed.p2p.uploads import Uploads
from primed.p2p.waits import OpenWaits

if TYPE_CHECKING:
    from trio_typing import TaskStatus

_log = logging.getLogger(__name__)


def silence_library() -> None:
    """Keep libp2p's log to itself, unless the user asked for it by LIBP2P_DEBUG.

    Without a handler Python prints its warnings to stderr; and one module logs to the root
    logger, which installs a handler there behind our back.
    """
    library = logging.getLogger("libp2p")
    if not os.environ.get("LIBP2P_DEBUG"):
        library.addHandler(logging.NullHandler())
        library.setLevel(logging.CRITICAL)
    vars(swarm_connection)["logging"] = library.getChild("connection")


silence_library()


class Owner(Policy, Protocol):
    """What the services ask or tell their owner."""

    def on_identified(self, peer: bytes) -> None: ...

    def penalise(self, peer: bytes, points: int, reason: str) -> None: ...

    def is_chosen(self, peer: bytes) -> bool:
        """Whether it is one of the few peers that we lean on, whoever else came."""

    @property
    def offers_relay(self) -> bool: ...

    def relay_candidates(self) -> list[bytes]:
        """Connected peers that may be relays for us, best first."""

    def relay_address(self, peer: bytes) -> str | None:
        """Where others could dial such a relay, without /p2p/."""

    def network_of(self, peer: bytes) -> str:
        """The network (/16, /32) that a connected peer is in, "" if that is not known."""

    def mapped_addresses(self) -> list[str]:
        """Where a router lets others in to us."""


class Stack:
    """`run` hosts the services until `stop` is called, which must happen in any case."""

    def __init__(
        self,
        identity: Identity,
        profile: limits.Profile,
        announce: Sequence[str],
        member_protocol: str,
        *,
        book: PeerBook,
        owner: Owner,
        topics: Topics,
        traffic: Traffic,
        uploads: Uploads,
        waits: OpenWaits,
    ) -> None:
        keys = create_new_key_pair(identity.seed)
        self.swarm = GuardedSwarm(keys, profile, owner, traffic)
        self._owner = owner
        self._announce = [Multiaddr(address) for address in announce]
        self._circuits: Callable[[], list[str]] = list  # none yet: the host asks while it is made
        self._expanded: dict[tuple[Multiaddr, ...], list[Multiaddr]] = {}
        self.host = GuardedHost(
            self.swarm, traffic, self._addresses, owner.on_identified, owner.penalise
        )
        router = Router(owner, profile)
        self.gossip = Gossip(
            self.host, router, identity.sign, topics, traffic, uploads, owner.penalise
        )
        self.discovery = Discovery(self.host, book, member_protocol, traffic, waits)
        self.relays = RelayClient(self.host, owner.relay_candidates, owner.relay_address, waits)
        self._circuits = self.relays.addresses
        self._relay_server = (
            RelayServer(self.host, self._direct_addresses, traffic, owner.penalise)
            if owner.offers_relay
            else None
        )
        self._stop = trio.Event()

    def listening(self) -> list[Multiaddr]:
        """The addresses of our sockets, without /p2p/."""
        return list(self.host.get_transport_addrs())

    def on_gone(self, peer: bytes) -> None:
        """A peer's last connection has ended."""
        self.discovery.remove(peer)
        self.relays.on_gone(peer)
        if self._relay_server is not None:
            self._relay_server.on_gone(peer)

    def _direct_addresses(self) -> list[bytes]:
        return [address.to_bytes() for address in self._told(self.listening())]

    def stop(self) -> None:
        self._stop.set()

    async def run(
        self,
        listen: Sequence[str],
        service: Callable[[], Awaitable[None]],
        *,
        task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """`service` is an async function that runs along and is cancelled at the stop."""
        for address in listen:
            _check_free(address)
        with trio.CancelScope(shield=True) as shelter:  # ends by `stop`; cancelled it would leak
            try:
                await self._host_services(listen, service, task_status, shelter)
            except Exception as error:
                if not self._stop.is_set():
                    raise
                _log.debug("while stopping: %r", error)
            finally:
                self.swarm.close_sockets()

    async def _host_services(
        self,
        listen: Sequence[str],
        service: Callable[[], Awaitable[None]],
        task_status: TaskStatus[None],
        shelter: trio.CancelScope,
    ) -> None:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.host.run([Multiaddr(a) for a in listen]))
            self._check_listening(listen)
            for part in (self.discovery.dht, self.gossip, self.gossip.router):
                await stack.enter_async_context(background_trio_service(part))
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(service)
                    task_status.started()
                    await self._stop.wait()
                    nursery.cancel_scope.cancel()
            finally:
                shelter.deadline = trio.current_time() + limits.STOP_S
                await self.swarm.hang_up_all()
                await self.host.close()

    def _check_listening(self, listen: Sequence[str]) -> None:
        if len(self.swarm.listeners) < len(set(listen)):
            raise UserError(
                f"cannot listen on {', '.join(listen)}", "is the IP one of this machine's?"
            )

    def _addresses(self, listening: list[Multiaddr]) -> list[Multiaddr]:
        """What we tell others: where they can dial us, and relays that hold a place for us."""
        relayed = [Multiaddr(address) for address in self._circuits()]
        return self._told(listening) + relayed

    def _told(self, listening: list[Multiaddr]) -> list[Multiaddr]:
        """The announced addresses, else the router's and 0.0.0.0 replaced by each real IP."""
        if self._announce:
            return self._announce
        key = tuple(listening)
        if key not in self._expanded:
            found = [a for one in listening for a in get_thin_waist_addresses(one)]
            public = [a for a in found if not addresses.is_loopback(str(a))]
            self._expanded = {key: public or found}
        mapped = [Multiaddr(address) for address in self._owner.mapped_addresses()]
        return mapped + self._expanded[key]


def _check_free(address: str) -> None:
    """The library listens with SO_REUSEPORT: two daemons would share a port and not notice."""
    try:
        transport, _ = addresses.split(address)
    except ValueError as error:
        raise UserError(str(error), "expected /ip4/<ip>/tcp/<port>") from error
    kind, host, _, port = transport.split("/")[1:5]
    if kind not in ("ip4", "ip6"):
        raise UserError(f"cannot listen on a name: {address}", "give an IP address")
    family = socket.AF_INET if kind == "ip4" else socket.AF_INET6
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            raise UserError(
                f"cannot listen on {address}: {error.strerror}",
                "another program has this port; give another one, or 0 for any",
            ) from error
