"""`BulkLane`: asks for conversations, answers who asks, and bounds both. Used by `p2p.host`.

All state lives in the trio thread; threads get a channel and a function to run on it.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Protocol, TypeVar

import trio

from primed.p2p import limits, peerid
from primed.p2p.bulk import wire
from primed.p2p.bulk.certificate import Contexts
from primed.p2p.bulk.channel import TlsChannel
from primed.p2p.bulk.sockets import Sockets
from primed.p2p.bulk.standing import Standing
from primed.p2p.bulk.tickets import TICKET_BYTES, Tickets
from primed.p2p.errors import LOW, MID, NoLane, RemoteError
from primed.p2p.identity import Identity
from primed.p2p.network import BulkChannel, Stream, Traffic
from primed.p2p.uploads import Uploads
from primed.p2p.waits import OpenWaits

PROTOCOL = "/primed/bulk/1"
_log = logging.getLogger(__name__)
T = TypeVar("T")
Talk = Callable[[BulkChannel], None]


class Owner(Protocol):
    """What the lane asks or tells its network."""

    async def open_stream(self, peer: bytes, protocol: str) -> Stream: ...

    def dialled_address(self, peer: bytes) -> str | None:
        """Where a live connection that we dialled leads, without /p2p/."""

    def is_dialled_by(self, peer: bytes) -> bool:
        """Whether there is a live connection that the peer dialled."""

    def speaks(self, peer: bytes, protocol: str) -> bool:
        """False if the peer has told its protocols and this is none of them."""

    def penalise(self, peer: bytes, points: int, reason: str) -> None: ...


class BulkLane:
    """See `primed.p2p.network.Bulk`. `run` must be running for anything to succeed."""

    def __init__(
        self,
        identity: Identity,
        profile: limits.Profile,
        owner: Owner,
        uploads: Uploads,
        traffic: Traffic,
        waits: OpenWaits,
    ) -> None:
        self._profile = profile
        self._owner = owner
        self._uploads = uploads
        self._traffic = traffic
        self._waits = waits
        self._counting = threading.Lock()
        self._talks: dict[str, Talk] = {}  # purpose -> what answers it
        self._serving: dict[tuple[bytes, str], trio.CancelScope] = {}  # by peer and purpose
        self._asking: Counter[bytes] = Counter()
        self._tickets: Tickets[TlsChannel] = Tickets()
        self._standing = Standing()
        self._sockets = Sockets(
            Contexts(identity), profile, uploads, self._tickets, self._count, self._charge
        )
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Owns the tasks of conversations that others asked for. Leaves no thread behind."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await self._charge_lapsed()
        finally:
            self._nursery = None

    async def _charge_lapsed(self) -> None:
        while True:
            await trio.sleep(limits.BULK_TICKET_S / 4)
            for ticket in self._tickets.lapse(trio.current_time()):
                if ticket.is_served:
                    reason = "asked for a bulk conversation and did not come"
                    self._owner.penalise(ticket.peer, LOW, reason)

    # ---- for everybody

    def why_not(self, peer: bytes) -> str:
        if self._nursery is None:
            return "the bulk lane is not running"
        if not self._owner.speaks(peer, PROTOCOL):
            return "the peer has no bulk lane"
        if not self._owner.dialled_address(peer) and not self._owner.is_dialled_by(peer):
            return "no direct connection"
        return self._standing.why_not(peer, trio.current_time())

    def describe(self, peer: bytes) -> tuple[str, str]:
        """("bulk" | "streams", why) for `primed peers`."""
        if why := self.why_not(peer):
            return "streams", why
        served = sum(whose == peer for whose, _ in self._serving)
        if self._asking[peer] or served:
            return "bulk", f"{self._asking[peer]} asked and {served} served now"
        return "bulk", "we dial" if self._owner.dialled_address(peer) else "the peer dials"

    def serve(self, purpose: str, talk: Talk) -> None:
        self._talks[purpose] = talk

    async def converse(self, peer: bytes, purpose: str, talk: Callable[[BulkChannel], T]) -> T:
        if why := self.why_not(peer):
            raise NoLane(why, peer=peer, retry_s=limits.BULK_BUSY_S)
        if self._asking.total() >= self._profile.bulk_down:
            reason = f"{self._profile.bulk_down} bulk conversations are the most"
            raise NoLane(reason, peer=peer, retry_s=limits.BULK_BUSY_S)
        self._asking[peer] += 1
        try:
            channel = await self._open(peer, purpose)
            return await self._talk(channel, talk)
        finally:
            self._asking -= Counter((peer,))

    # ---- asking

    async def _open(self, peer: bytes, purpose: str) -> TlsChannel:
        """Raises NoLane, whatever the reason, and remembers it."""
        within_s = limits.BULK_ASK_S + limits.BULK_TICKET_S
        wait = self._waits.named("a bulk conversation", f"peer {peerid.short(peer)}", within_s)
        try:
            with wait, trio.fail_after(within_s):
                return await self._agree(peer, purpose)
        except NoLane as busy:
            self._standing.busy(peer, busy.reason, busy.retry_s, trio.current_time())
            raise
        except RemoteError as error:
            self._failed(peer, error)
            raise NoLane(error.reason, peer=peer) from error
        except trio.TooSlowError as error:
            late = NoLane("no bulk channel in time", peer=peer)
            self._failed(peer, late)
            raise late from error

    async def _agree(self, peer: bytes, purpose: str) -> TlsChannel:
        address = self._owner.dialled_address(peer)
        if address is None:
            return await self._be_dialled(peer, purpose)
        granted = await self._ask(peer, wire.Ask(purpose, "asker", b""))
        if len(granted.ticket) != TICKET_BYTES:
            raise RemoteError("granted no ticket", peer=peer, penalty=MID)
        return await self._sockets.dial(address, peer, granted.ticket)

    async def _be_dialled(self, peer: bytes, purpose: str) -> TlsChannel:
        arrived, arrivals = trio.open_memory_channel[TlsChannel](1)
        now = trio.current_time()
        token = self._tickets.issue(peer, purpose, arrived.send_nowait, now, is_served=False)
        try:
            if (await self._ask(peer, wire.Ask(purpose, "answerer", token))).ticket:
                raise RemoteError("granted a ticket where it dials", peer=peer, penalty=MID)
            return await self._sockets.confirm(await arrivals.receive())
        finally:
            self._tickets.withdraw(token)  # a late peer finds no ticket ...
            with suppress(trio.WouldBlock):
                arrivals.receive_nowait().close()  # ... but may have come this moment

    async def _ask(self, peer: bytes, ask: wire.Ask) -> wire.Granted:
        stream = await self._owner.open_stream(peer, PROTOCOL)
        try:
            await wire.send(stream, ask)
            answer = await wire.receive(stream, wire.answers)
        except BaseException:
            await stream.reset()
            raise
        await stream.close()
        if isinstance(answer, wire.Refused):
            raise NoLane(f"refused: {answer.reason}", peer=peer, retry_s=answer.retry_ms / 1000)
        return answer

    async def _talk(self, channel: TlsChannel, talk: Callable[[BulkChannel], T]) -> T:
        try:
            result = await channel.in_thread(partial(_in_order, talk), self._sockets.threads)
        except RemoteError as error:
            self._failed(channel.peer, error)
            raise
        finally:
            channel.close()
        self._standing.worked(channel.peer)
        return result

    def _failed(self, peer: bytes, error: RemoteError) -> None:
        self._standing.failed(peer, error.reason, trio.current_time())
        self._charge(error)

    # ---- answering

    async def answer(self, stream: Stream) -> None:
        """The handler of PROTOCOL."""
        with trio.move_on_after(limits.BULK_ASK_S):
            ask = await wire.receive(stream, wire.asks)
            await wire.send(stream, self._judge(stream.peer, ask))
            return
        raise RemoteError("asked too slowly", peer=stream.peer, penalty=LOW)

    def _judge(self, peer: bytes, ask: wire.Ask) -> wire.Granted | wire.Refused:
        if len(ask.ticket) != (TICKET_BYTES if ask.dials == "answerer" else 0):
            raise RemoteError("a ticket too many or too few", peer=peer, penalty=MID)
        reason, retry_s = self._why_refuse(peer, ask)
        if reason:
            return wire.Refused(reason, int(1000 * min(retry_s, 600)))
        if ask.dials == "answerer":
            self._start_serving(peer, ask.purpose, lambda: self._dial(peer, ask.ticket))
            return wire.Granted(b"")

        def admit(channel: TlsChannel) -> None:
            self._start_serving(peer, ask.purpose, lambda: self._sockets.confirm(channel))

        now = trio.current_time()
        return wire.Granted(self._tickets.issue(peer, ask.purpose, admit, now, is_served=True))

    def _why_refuse(self, peer: bytes, ask: wire.Ask) -> tuple[str, float]:
        if self._nursery is None or ask.purpose not in self._talks:
            return "nothing is served under that name", limits.BULK_BUSY_S
        if ask.dials == "answerer" and not self._owner.dialled_address(peer):
            return "no way to dial you", limits.BULK_BUSY_S
        reason, wait_s = self._uploads.why_not()
        if reason:
            return reason, wait_s
        promised = {(ticket.peer, ticket.purpose) for ticket in self._tickets.served()}
        if (peer, ask.purpose) in promised:
            return "you have a ticket already", limits.BULK_BUSY_S
        others = promised | self._serving.keys() - {(peer, ask.purpose)}
        if len(others) >= self._profile.bulk_up:
            return f"busy with {len(others)} bulk conversations", limits.BULK_BUSY_S
        return "", 0.0

    async def _dial(self, peer: bytes, token: bytes) -> TlsChannel:
        address = self._owner.dialled_address(peer)
        if address is None:
            raise RemoteError("hung up", peer=peer)
        return await self._sockets.dial(address, peer, token)

    def _start_serving(
        self, peer: bytes, purpose: str, get: Callable[[], Awaitable[TlsChannel]]
    ) -> None:
        """A new conversation takes the place of an older one: its asker has given that up."""
        key, scope = (peer, purpose), trio.CancelScope()

        async def serve() -> None:
            try:
                with scope:
                    await self._talk(await get(), self._talks[purpose])
            except RemoteError as error:
                _log.debug("bulk conversation with %s: %s", peerid.short(peer), error.reason)
            except Exception:  # noqa: BLE001  the border: one conversation must not end the others
                self._traffic.handler_errors += 1
                _log.exception("a bulk conversation failed (%s)", purpose)
            finally:
                if self._serving.get(key) is scope:
                    del self._serving[key]

        assert self._nursery is not None
        if key in self._serving:
            self._serving[key].cancel()
        self._serving[key] = scope
        self._nursery.start_soon(serve)

    # ---- sockets

    def welcome(self, sock: socket.socket, ip: str) -> None:
        """Take over an inbound socket that begins like TLS."""
        if self._nursery is None:
            sock.close()
            return
        self._nursery.start_soon(self._admit, sock, ip)

    async def _admit(self, sock: socket.socket, ip: str) -> None:
        try:
            await self._sockets.admit(sock, ip)
        except Exception:  # noqa: BLE001  the border: whoever connected
            self._traffic.handler_errors += 1
            _log.exception("an inbound bulk connection failed (%s)", ip)
        self._traffic.extra["bulk_sockets_refused"] = self._sockets.refused

    def _charge(self, error: RemoteError) -> None:
        if error.penalty and error.peer:
            self._owner.penalise(error.peer, error.penalty, error.reason)

    def _count(self, received_bytes: int, sent_bytes: int) -> None:
        with self._counting:  # from threads
            self._traffic.bulk_received_bytes += received_bytes
            self._traffic.bulk_sent_bytes += sent_bytes


def _in_order(talk: Callable[[BulkChannel], T], channel: TlsChannel) -> T:
    result = talk(channel)
    channel.linger()
    return result
