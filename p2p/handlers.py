"""The protocols we serve: each stream's handler runs at a border and ends with its connection."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.stream_muxer.yamux.yamux import Yamux

from primed.p2p.errors import RemoteError
from primed.p2p.guard import GuardedHost
from primed.p2p.network import Handler, Traffic
from primed.p2p.streams import Libp2pStream

_log = logging.getLogger(__name__)


class Handlers:
    """Kept across lives of the services; `offer_all` tells a new host."""

    def __init__(self, traffic: Traffic, penalise: Callable[[bytes, int, str], None]) -> None:
        self._handlers: dict[str, Handler] = {}
        self._traffic = traffic
        self._penalise = penalise

    def set(self, protocol: str, handler: Handler) -> None:
        self._handlers[protocol] = handler

    def offer_all(self, host: GuardedHost) -> None:
        for protocol in self._handlers:
            self.offer(host, protocol)

    def offer(self, host: GuardedHost, protocol: str) -> None:
        async def serve(stream: INetStream) -> None:
            await self._serve(protocol, stream)

        host.set_stream_handler(TProtocol(protocol), serve)

    async def _serve(self, protocol: str, raw: INetStream) -> None:
        """Run the handler until it returns, fails, or the connection is gone."""
        stream = Libp2pStream(raw, raw.muxed_conn.peer_id.to_bytes(), self._traffic)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_lost, raw, nursery.cancel_scope)
            try:
                await self._handlers[protocol](stream)
                await stream.close()
            except RemoteError as error:
                if error.penalty:
                    self._penalise(error.peer or stream.peer, error.penalty, error.reason)
                await stream.reset()
            except Exception:  # noqa: BLE001  the border: a stream's failure is not the node's
                self._traffic.handler_errors += 1
                _log.exception("the handler of %s failed", protocol)
                await stream.reset()
            nursery.cancel_scope.cancel()


async def _cancel_when_lost(stream: INetStream, scope: trio.CancelScope) -> None:
    if isinstance(stream.muxed_conn, Yamux):
        await stream.muxed_conn.event_shutting_down.wait()
        scope.cancel()
