"""One node of the PyPI package `shardcast`, for `benchmarks.broadcast`: runs in an environment of its
own, knows nothing of this project. argv: origin | relay | client, folder, port, cap in bytes a second,
then the file to broadcast, or the servers to get it from.

Its uplink is capped where its HTTP server writes a body: pieces of 64 KiB wait for a token bucket of
the node, as ours do. Headers and the list of versions are free, as short messages are with us.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO

from shardcast.client_node import ClientNode  # type: ignore[import-not-found]
from shardcast.middle_node import MiddleNode  # type: ignore[import-not-found]
from shardcast.origin_server import OriginServer  # type: ignore[import-not-found]
from shardcast.server import ShardcastRequestHandler  # type: ignore[import-not-found]

PIECE_BYTES = 64 * 1024
FREE_BYTES = 4096
POLL_S = 0.5


class Cap:
    """Token bucket: a tenth of a second at once, then the rate."""

    def __init__(self, bytes_per_s: float) -> None:
        self._rate = bytes_per_s
        self._free_at = time.monotonic()
        self._lock = threading.Lock()

    def take(self, size_bytes: int) -> None:
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic() - 0.1) + size_bytes / self._rate
            wait_s = self._free_at - time.monotonic()
        if wait_s > 0:
            time.sleep(wait_s)


def put_under(cap: Cap) -> None:
    def copyfile(self: object, source: BinaryIO, sink: BinaryIO) -> None:
        while piece := source.read(PIECE_BYTES):
            if len(piece) > FREE_BYTES:
                cap.take(len(piece))
            sink.write(piece)

    ShardcastRequestHandler.copyfile = copyfile


def say(**news: object) -> None:
    print(json.dumps(news), flush=True)


def main() -> None:
    role, folder, port, cap, *rest = sys.argv[1:]
    put_under(Cap(float(cap)))
    home = Path(folder)
    home.mkdir(parents=True, exist_ok=True)
    (home / "data1.bin").write_bytes(b"x" * 1024)  # what a downloader measures servers with
    if role == "origin":
        origin = OriginServer(folder, int(port))
        say(listening=port)
        sys.stdin.readline()
        say(began=time.monotonic())
        origin.broadcast(rest[0])
    elif role == "relay":
        MiddleNode(rest, folder, int(port), check_interval=1)
        say(listening=port)
    else:
        client = ClientNode(rest, folder)
        say(listening=port)
        while "v1" not in client.list_available_versions():
            time.sleep(POLL_S)
        while not (path := client.download_version("v1", str(home / "out.bin"))):
            time.sleep(POLL_S)
        say(path=path, done=time.monotonic())
    sys.stdin.read()


if __name__ == "__main__":
    main()
