"""How two peers come to share a TLS channel: one dials and shows a ticket, the other lets it in.

The TCP connection is made by trio, which can be cancelled; TLS and what follows run in threads.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import trio

from primed.p2p import limits
from primed.p2p.bulk.certificate import Contexts
from primed.p2p.bulk.channel import TlsChannel
from primed.p2p.bulk.tickets import TICKET_BYTES, Tickets
from primed.p2p.doorkeeper import Doorkeeper
from primed.p2p.errors import HIGH, RemoteError
from primed.p2p.uploads import Uploads

TLS_RECORD = b"\x16"  # how a ClientHello begins; libp2p's connections begin otherwise
_WELCOME = b"\x01"


class Sockets:
    """Makes channels for one node. `charge` scores the peer that an error names; `refused` counts
    sockets that were turned away."""

    def __init__(
        self,
        contexts: Contexts,
        profile: limits.Profile,
        uploads: Uploads,
        tickets: Tickets[TlsChannel],
        count: Callable[[int, int], None],
        charge: Callable[[RemoteError], None],
    ) -> None:
        self._contexts = contexts
        self._uploads = uploads
        self._tickets = tickets
        self._count = count
        self._charge = charge
        self._door = Doorkeeper(profile.for_handshakes())
        places = profile.bulk_up + profile.bulk_down
        self.threads = trio.CapacityLimiter(places + limits.BULK_HANDSHAKES)
        self.refused = 0

    # ---- the dialling side

    async def dial(self, address: str, peer: bytes, token: bytes) -> TlsChannel:
        """A channel to `peer`, which has taken our ticket. Raises RemoteError."""
        channel = TlsChannel(await _connect(address, peer), self._uploads, self._count)
        try:
            await channel.in_thread(lambda made: self._introduce(made, peer, token), self.threads)
        except BaseException:
            channel.close()
            raise
        return channel

    def _introduce(self, channel: TlsChannel, peer: bytes, token: bytes) -> None:
        channel.handshake(self._contexts.client, server_side=False)
        if channel.peer != peer:
            raise RemoteError("another peer answers at this address", peer=peer)
        channel.send_all(token)
        answer = bytearray(len(_WELCOME))
        if not channel.recv_into(answer, first_byte_s=limits.BULK_HANDSHAKE_S):
            raise RemoteError("did not take its own ticket", peer=peer)
        if answer != _WELCOME:
            raise RemoteError("answered a ticket with something else", peer=peer, penalty=HIGH)

    # ---- the listening side

    async def admit(self, sock: socket.socket, ip: str) -> None:
        """Find out who is at an inbound socket, and give the channel to whoever issued its ticket."""
        place = self._door.enter(ip) if len(self._tickets) else None
        if place is None:
            self.refused += 1
            sock.close()
            return
        try:
            await self._admit(sock)
        except RemoteError as error:
            self.refused += 1
            self._charge(error)
        finally:
            self._door.leave(place)

    async def _admit(self, sock: socket.socket) -> None:
        channel = TlsChannel(sock, self._uploads, self._count)
        is_admitted = False
        try:
            token = await channel.in_thread(self._identify, self.threads)
            ticket = self._tickets.redeem(token, channel.peer, trio.current_time())
            ticket.admit(channel)
            is_admitted = True
        finally:
            if not is_admitted:
                channel.close()

    async def confirm(self, channel: TlsChannel) -> TlsChannel:
        """Tell an admitted peer that it may begin. Raises RemoteError; then the channel is closed."""
        try:
            await channel.in_thread(lambda made: made.send_all(_WELCOME), self.threads)
        except BaseException:
            channel.close()
            raise
        return channel

    def _identify(self, channel: TlsChannel) -> bytes:
        channel.handshake(self._contexts.server, server_side=True)
        token = bytearray(TICKET_BYTES)
        if not channel.recv_into(token, first_byte_s=limits.BULK_HANDSHAKE_S):
            raise RemoteError("showed no ticket", peer=channel.peer)
        return bytes(token)


async def _connect(address: str, peer: bytes) -> socket.socket:
    """A TCP connection. address: `/ip4/<ip>/tcp/<port>` or with a name."""
    _, _, host, _, port = address.split("/")
    try:
        with trio.fail_after(limits.DIAL_S):
            stream = await trio.open_tcp_stream(host, int(port))
    except trio.TooSlowError as error:
        raise RemoteError(f"{address}: no answer", peer=peer) from error
    except OSError as error:
        raise RemoteError(f"{address}: {error}"[:200], peer=peer) from error
    return release(stream)


def release(stream: trio.SocketStream) -> socket.socket:
    """The socket of a stream, for a thread. Nothing may be using the stream; it is closed."""
    sock = socket.socket(fileno=os.dup(stream.socket.fileno()))
    stream.socket.close()
    return sock
