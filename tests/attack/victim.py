"""A node in a process of its own, with a limit on open files: `python victim.py <files> <ip>`.

Prints its address, then answers `stats` requests of connected peers: JSON, one line.
"""

from __future__ import annotations

import json
import os
import resource
import sys

import trio

from primed.p2p import limits
from primed.p2p.host import MEMBER_PROTOCOL, Libp2pNetwork
from primed.p2p.identity import Identity
from primed.p2p.network import Stream

STATS = "/test/stats/1"


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def main(open_files: int, ip: str) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))
    network = Libp2pNetwork(Identity.generate(), profile=limits.HOME.within(open_files))

    async def echo(stream: Stream) -> None:
        while data := await stream.read_some(limits.READ_BYTES):
            await stream.write_all(data)

    async def stats(stream: Stream) -> None:
        values = {
            "files": len(os.listdir("/proc/self/fd")),
            "resident_bytes": _resident_bytes(),
            "tasks": trio.lowlevel.current_statistics().tasks_living,
            "peers": len(network.peers()),
            "refused": network.traffic.refused_connections,
            "handler_errors": network.traffic.handler_errors,
        }
        await stream.write_all(json.dumps(values).encode() + b"\n")

    network.handle(MEMBER_PROTOCOL, echo)
    network.handle(STATS, stats)
    async with network.running([f"/ip4/{ip}/tcp/0"], []):
        print(network.listen_addresses()[0], flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), sys.argv[2])
