"""Raw TCP connections in great number, from a process of its own so that who measures is not slowed
down: `python flooder.py <ip> <port> <source ip>...` connects once from each source as fast as it goes.

Prints how many of them are still open in the end.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress


def dial(source: str, ip: str, port: int) -> socket.socket:
    """A TCP connection from this loopback IP, with nothing on it."""
    raw = socket.socket()
    raw.bind((source, 0))
    raw.settimeout(5)
    raw.connect((ip, port))
    return raw


def is_cut(raw: socket.socket, said: int = 1) -> bool:
    """Whether the other side has closed it; so many bytes that it said before are thrown away."""
    raw.settimeout(0.01)
    try:
        return raw.recv(said) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def flood(ip: str, port: int, sources: Sequence[str]) -> int:
    held: list[socket.socket] = []
    for number, source in enumerate(sources):
        with suppress(OSError):
            held.append(dial(source, ip, port))
        if number % 50 == 49:  # stay below our own limit on files
            cut = [raw for raw in held if is_cut(raw)]
            held = [raw for raw in held if raw not in cut]
            for raw in cut:
                raw.close()
    time.sleep(0.3)
    return sum(not is_cut(raw) for raw in held)


if __name__ == "__main__":
    print(flood(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
