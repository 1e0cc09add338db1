"""Keeps the network up: what crashes in it is started again, with the same key and the same ports.

Only the network goes and comes back; children, views of runs and the local API do not notice, but
that requests to peers fail meanwhile. A failure of the very first start is the user's to mend (a
port in use, an address that is not here) and ends the daemon.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from primed.node.services import Services

if TYPE_CHECKING:
    from trio_typing import TaskStatus

_ANY_PORT = re.compile(r"/tcp/0$")
_PORT = re.compile(r"/tcp/(\d+)")


@asynccontextmanager
async def hosted(
    services: Services, listen: Sequence[str], bootstrap: Sequence[str]
) -> AsyncIterator[None]:
    """The network runs while this is entered."""
    host = _Host(services, listen, bootstrap)
    async with trio.open_nursery() as nursery:
        await nursery.start(host.keep)
        yield
        nursery.cancel_scope.cancel()


class _Host:
    def __init__(self, services: Services, listen: Sequence[str], bootstrap: Sequence[str]) -> None:
        self._services = services
        self._listen = tuple(listen)
        self._bootstrap = tuple(bootstrap)
        self._starts = 0

    async def keep(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async def once() -> None:
            network = self._services.network
            async with network.running(self._listen, self._bootstrap):
                self._starts += 1
                self._listen = same_ports(self._listen, network.listen_addresses())
                if self._starts == 1:
                    task_status.started()
                else:
                    self._services.problems.clear("network-failed")
                    self._services.metrics.network_restarts.inc()
                await trio.sleep_forever()

        await self._services.keep_running("network", once, is_fatal=lambda _: not self._starts)


def same_ports(listen: Sequence[str], actual: Sequence[str]) -> tuple[str, ...]:
    """Listen addresses with `/tcp/0` replaced by the port that it became, if that is clear."""
    ports = {match[1] for address in actual if (match := _PORT.search(address))}
    if len(ports) != 1:
        return tuple(listen)
    return tuple(_ANY_PORT.sub(f"/tcp/{min(ports)}", address) for address in listen)
