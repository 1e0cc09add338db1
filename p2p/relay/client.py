"""Being reached through relays, and reaching others through theirs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, PeerId, Status, StopMessage
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from primed.p2p import addresses, limits, peerid
from primed.p2p.errors import RemoteError
from primed.p2p.guard import GuardedHost
from primed.p2p.muxer import BoundedYamux
from primed.p2p.relay import HOP, STOP
from primed.p2p.relay.circuit import CircuitConnection
from primed.p2p.relay.messages import check_ok, read, write
from primed.p2p.streams import STREAM_ERRORS, reset_quietly, root_cause
from primed.p2p.waits import OpenWaits

_log = logging.getLogger(__name__)


class RelayClient:
    """`candidates`: connected peers that may be relays for us, best first; `address_of`: where a
    relay can be dialled, without /p2p/, None if not known."""

    def __init__(
        self,
        host: GuardedHost,
        candidates: Callable[[], Sequence[bytes]],
        address_of: Callable[[bytes], str | None],
        waits: OpenWaits,
    ) -> None:
        self._host = host
        self._candidates = candidates
        self._address_of = address_of
        self._waits = waits
        self._relays: dict[bytes, str] = {}  # reserved with, and the address it gives us
        self._circuits_in = 0
        host.set_stream_handler(TProtocol(STOP), self._take)

    def addresses(self) -> list[str]:
        """Where others reach us, without our own /p2p/."""
        return list(self._relays.values())

    def on_gone(self, peer: bytes) -> None:
        self._relays.pop(peer, None)

    # --- being reached

    async def keep_reservations(self, wanted: Callable[[], bool]) -> None:
        """Reserve with a few relays while it is wanted, and again before they expire."""
        renew_at_s = 0.0
        while True:
            now_s = trio.current_time()
            if not wanted():
                self._relays.clear()
            elif now_s >= renew_at_s or len(self._relays) < limits.RELAYS_USED:
                renew = now_s >= renew_at_s
                await self._reserve_with_some(renew)
                renew_at_s = now_s + limits.RELAY_RENEW_S if renew else renew_at_s
            await trio.sleep(limits.RELAY_RETRY_S)

    async def _reserve_with_some(self, renew: bool) -> None:
        order = [*self._relays, *(p for p in self._candidates() if p not in self._relays)]
        for peer in order[: 2 * limits.RELAYS_USED]:
            held = peer in self._relays
            if (held and not renew) or (not held and len(self._relays) >= limits.RELAYS_USED):
                continue
            try:
                await self.reserve(peer)
            except RemoteError as error:
                self._relays.pop(peer, None)
                _log.info("%s is no relay for us: %s", peerid.short(peer), error.reason)

    async def reserve(self, relay: bytes) -> None:
        """Raises RemoteError."""
        address = self._address_of(relay)
        if address is None:
            raise RemoteError("nobody else could dial it", peer=relay)
        within_s = limits.OPEN_STREAM_S + limits.SILENT_S
        with self._waits.named("a place at a relay", f"peer {peerid.short(relay)}", within_s):
            stream = await self._open(relay, HOP)
            try:
                await write(stream, HopMessage(type=HopMessage.RESERVE))
                check_ok(await read(stream, HopMessage), relay)
            finally:
                await reset_quietly(stream)
        self._relays[relay] = addresses.circuit(address, relay)

    async def _take(self, stream: INetStream) -> None:
        """Somebody calls through a relay; lives as long as the connection."""
        relay = stream.muxed_conn.peer_id.to_bytes()
        welcome = relay in self._relays and self._circuits_in < limits.RELAYED_IN
        self._circuits_in += welcome  # before any wait: calls may come all at once
        try:
            request = await read(stream, StopMessage)
            if not welcome or request.type != StopMessage.CONNECT:
                status = Status.PERMISSION_DENIED
                await write(stream, StopMessage(type=StopMessage.STATUS, status=status))
                return
            await write(stream, StopMessage(type=StopMessage.STATUS, status=Status.OK))
            await self._serve(CircuitConnection(stream, is_initiator=False), relay)
        except RemoteError as error:
            _log.debug("a call by way of %s failed: %s", peerid.short(relay), error)
        finally:
            self._circuits_in -= welcome
            await reset_quietly(stream)

    async def _serve(self, circuit: CircuitConnection, relay: bytes) -> None:
        try:
            at = Multiaddr(f"/p2p/{peerid.to_text(relay)}/p2p-circuit")
            muxed = await self._host.swarm.upgrade_inbound_raw_conn(circuit, at)
            if isinstance(muxed, BoundedYamux):
                await muxed.event_closed.wait()
        except BaseLibp2pError as error:
            raise RemoteError(f"no connection over the circuit: {error}", peer=relay) from error

    # --- reaching others

    async def call(self, relay: bytes, peer: bytes) -> CircuitConnection:
        """A circuit to a peer, for a connection to be made on. Raises SwarmException."""
        try:
            stream = await self._open(relay, HOP)
            try:
                to = PeerId(id=peer)
                await write(stream, HopMessage(type=HopMessage.CONNECT, peer=to))
                check_ok(await read(stream, HopMessage), relay)
            except BaseException:
                await reset_quietly(stream)
                raise
        except RemoteError as error:
            raise SwarmException(f"through {peerid.short(relay)}: {error.reason}") from error
        return CircuitConnection(stream, is_initiator=True)

    async def _open(self, relay: bytes, protocol: str) -> INetStream:
        try:
            with trio.fail_after(limits.OPEN_STREAM_S):
                return await self._host.new_stream(ID(relay), [TProtocol(protocol)])
        except (trio.TooSlowError, *STREAM_ERRORS) as error:
            raise RemoteError(f"no relay stream: {root_cause(error)}", peer=relay) from error
