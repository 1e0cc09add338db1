"""Being a relay for others: reservations, and circuits between callers and those who reserved."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import (
    HopMessage,
    Limit,
    PeerId,
    Reservation,
    Status,
    StopMessage,
)

from primed.p2p import limits
from primed.p2p.errors import MID, RemoteError
from primed.p2p.guard import GuardedHost
from primed.p2p.network import Traffic
from primed.p2p.relay import HOP, STOP
from primed.p2p.relay.caps import Caps
from primed.p2p.relay.circuit import join
from primed.p2p.relay.messages import check_ok, read, write
from primed.p2p.streams import STREAM_ERRORS, reset_quietly, root_cause


class RelayServer:
    """Serves as soon as it is made. `addresses`: where we can be dialled, without /p2p/."""

    def __init__(
        self,
        host: GuardedHost,
        addresses: Callable[[], list[bytes]],
        traffic: Traffic,
        penalise: Callable[[bytes, int, str], None],
    ) -> None:
        self._host = host
        self._addresses = addresses
        self._traffic = traffic
        self._penalise = penalise
        self._caps = Caps()
        host.set_stream_handler(TProtocol(HOP), self._serve)

    def on_gone(self, peer: bytes) -> None:
        self._caps.drop(peer)

    async def _serve(self, stream: INetStream) -> None:
        peer = stream.muxed_conn.peer_id.to_bytes()
        try:
            request = await read(stream, HopMessage)
            ip = self._host.swarm.ip_of(peer)
            if ip is None:  # it comes over a relay itself
                await _refuse(stream, Status.PERMISSION_DENIED)
            elif request.type == HopMessage.RESERVE:
                await self._reserve(stream, peer, ip)
            elif request.type == HopMessage.CONNECT:
                await self._connect(stream, ip, request.peer.id)
            else:
                raise RemoteError("neither reserves nor connects", peer=peer, penalty=MID)
        except RemoteError as error:
            if error.penalty:
                self._penalise(peer, error.penalty, error.reason)
        finally:
            await reset_quietly(stream)

    async def _reserve(self, stream: INetStream, peer: bytes, ip: str) -> None:
        if not self._caps.reserve(peer, ip, trio.current_time()):
            await _refuse(stream, Status.RESERVATION_REFUSED)
            return
        reservation = Reservation(
            expire=int(time.time() + limits.RELAY_RESERVATION_S), addrs=self._addresses()
        )
        answer = HopMessage(
            type=HopMessage.STATUS, status=Status.OK, reservation=reservation, limit=_limit()
        )
        await write(stream, answer)
        await _finish(stream)

    async def _connect(self, caller: INetStream, ip: str, to: bytes) -> None:
        if not self._caps.holds(to, trio.current_time()):
            await _refuse(caller, Status.NO_RESERVATION)
        elif not self._caps.begin(ip, to):
            await _refuse(caller, Status.RESOURCE_LIMIT_EXCEEDED)
        else:
            try:
                await self._relay(caller, to)
            finally:
                self._caps.end(ip, to)

    async def _relay(self, caller: INetStream, to: bytes) -> None:
        try:
            called = await self._call(caller.muxed_conn.peer_id, to)
        except RemoteError:  # the called peer's fault, if anybody's
            await _refuse(caller, Status.CONNECTION_FAILED)
            return
        try:
            await write(
                caller, HopMessage(type=HopMessage.STATUS, status=Status.OK, limit=_limit())
            )
            self._traffic.relayed_bytes += await join(caller, called)
        finally:
            await reset_quietly(called)

    async def _call(self, caller: ID, to: bytes) -> INetStream:
        """A stream to the called peer, which has agreed. Raises RemoteError."""
        try:
            with trio.fail_after(limits.OPEN_STREAM_S):
                called = await self._host.new_stream(ID(to), [TProtocol(STOP)])
        except (trio.TooSlowError, *STREAM_ERRORS) as error:
            raise RemoteError(f"not reached: {root_cause(error)}", peer=to) from error
        try:
            sender = PeerId(id=caller.to_bytes())
            await write(called, StopMessage(type=StopMessage.CONNECT, peer=sender, limit=_limit()))
            check_ok(await read(called, StopMessage), to)
        except BaseException:
            await reset_quietly(called)
            raise
        return called


def _limit() -> Limit:
    return Limit(duration=int(limits.RELAY_S), data=limits.RELAY_BYTES)


async def _refuse(stream: INetStream, status: Status.ValueType) -> None:
    await write(stream, HopMessage(type=HopMessage.STATUS, status=status))
    await _finish(stream)


async def _finish(stream: INetStream) -> None:
    """Let the answer arrive: wait until the other side ends, but not long."""
    with suppress(*STREAM_ERRORS), trio.move_on_after(limits.SILENT_S):
        await stream.close()
        await stream.read(1)
