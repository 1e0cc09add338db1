"""TCP sockets as the library reads them, with a buffer, a bound and IPv6.

The library reads two bytes, then a record, then again; and it gives up on a record that comes in
more than 100 pieces. Read ahead, a record in 1-byte slices is only a slow one. It would also
allocate whatever length a peer names before the handshake; nothing legitimate is above a Noise
record. And it knows no address of an IPv6 peer.
"""

from __future__ import annotations

import ipaddress

import trio
from libp2p.io.exceptions import IOException
from libp2p.io.trio import TrioTCPStream

LONGEST_READ_BYTES = 65_537  # a Noise record and its length
_AHEAD_BYTES = 65_536


class BufferedTCP(TrioTCPStream):
    """`read(n)` returns n bytes, and fewer only at the end of the stream. One reader."""

    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__(stream)
        self._buffer = bytearray()

    async def read(self, n: int | None = None) -> bytes:
        if n is None or n > LONGEST_READ_BYTES:
            raise IOException(f"{n} bytes at a time are refused")
        while len(self._buffer) < n:
            chunk = await super().read(_AHEAD_BYTES)
            if not chunk:
                break
            self._buffer += chunk
        data = bytes(memoryview(self._buffer)[:n])
        del self._buffer[:n]
        return data

    def get_remote_address(self) -> tuple[str, int] | None:
        if self._cached_remote_address is None:
            try:
                self._cached_remote_address = remote_of(self.stream)
            except OSError:  # closed
                return None
        return self._cached_remote_address


def remote_of(stream: trio.SocketStream) -> tuple[str, int]:
    """(IP, port) of the other end; an IPv4 peer of an IPv6 socket as IPv4. Raises OSError."""
    host, port = stream.socket.getpeername()[:2]
    ip = ipaddress.ip_address(host.partition("%")[0])  # fe80::1%eth0
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return str(mapped or ip), port
