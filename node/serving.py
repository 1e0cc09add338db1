"""HTTP on the daemon's trio loop: an ASGI application behind a listening socket, by hypercorn."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import hypercorn.config
import hypercorn.trio
import trio
from starlette.types import ASGIApp

from primed.p2p.errors import UserError

BACKLOG = 64
GRACE_S = 2.0


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, listener: socket.socket) -> AsyncIterator[None]:
    """Serve while entered; takes the socket over, closes it, and removes a unix socket's file."""
    name, family = listener.getsockname(), listener.family
    config = hypercorn.config.Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.graceful_timeout = GRACE_S
    config.include_server_header = False
    config.errorlog = None
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_serve, app, config, stop)  # connections queue until it is up
        try:
            yield
        finally:
            stop.set()
            if family == socket.AF_UNIX:
                Path(name).unlink(missing_ok=True)


async def _serve(app: ASGIApp, config: hypercorn.config.Config, stop: trio.Event) -> None:
    """Ends when told to, not by cancellation: the answer to `primed stop` still has to go out."""
    framework = cast(Any, app)  # hypercorn spells the type of an ASGI application more narrowly

    async def until_stop() -> None:
        await stop.wait()
        scope.deadline = trio.current_time() + 2 * GRACE_S

    with trio.CancelScope(shield=True) as scope:
        await hypercorn.trio.serve(framework, config, shutdown_trigger=until_stop, mode="asgi")


def unix_listener(path: Path) -> socket.socket:
    """A socket file of mode 0700. The data directory's lock must be held: a file that is there
    already belongs to nobody and is replaced."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))  # in a 0700 directory: nobody else can connect before the chmod
    path.chmod(0o700)
    listener.listen(BACKLOG)
    return listener


def tcp_listener(host_and_port: str) -> socket.socket:
    """For the metrics. Raises UserError if the address cannot be had."""
    host, _, port = host_and_port.rpartition(":")
    try:
        return socket.create_server(
            (host.strip("[]"), int(port)),
            family=socket.AF_INET6 if ":" in host else socket.AF_INET,
            backlog=BACKLOG,
        )
    except OSError as error:
        raise UserError(
            f"cannot listen on {host_and_port} for metrics: {error.strerror}",
            "choose another metrics_listen, or leave it empty",
        ) from error
