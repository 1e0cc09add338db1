"""The libp2p host whose handlers cannot end the process.

In the library any exception in a stream handler, its own included, cancels the whole swarm. Here
each handler runs at a border: the exception is counted, the stream reset, the rest goes on. The
limits on streams are enforced here too, and the library's exchanges (identify, DHT) get an end: it
waits for their bytes for ever, and serves only so many of them at a time.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable
from weakref import WeakKeyDictionary

import trio
from libp2p.abc import IMuxedConn, INetStream
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.host import basic_host
from libp2p.host.basic_host import BasicHost
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify_push import identify_push
from libp2p.identity.identify_push.identify_push import ID_PUSH
from libp2p.kad_dht.common import PROTOCOL_ID as KADEMLIA
from libp2p.peer.id import ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from primed.p2p import limits
from primed.p2p.buckets import TokenBucket
from primed.p2p.errors import HIGH
from primed.p2p.identify import read_identify
from primed.p2p.network import Traffic
from primed.p2p.streams import STREAM_ERRORS, reset_quietly
from primed.p2p.swarm import GuardedSwarm

_log = logging.getLogger(__name__)
_EXCHANGES = frozenset({IDENTIFY, ID_PUSH, KADEMLIA})
for _module in (basic_host, identify_push):
    vars(_module)["read_length_prefixed_protobuf"] = read_identify


class GuardedHost(BasicHost):
    """`on_identified` is called once a peer has told its protocols and addresses."""

    def __init__(
        self,
        swarm: GuardedSwarm,
        traffic: Traffic,
        announced: Callable[[list[Multiaddr]], list[Multiaddr]],
        on_identified: Callable[[bytes], None],
        penalise: Callable[[bytes, int, str], None],
    ) -> None:
        super().__init__(
            swarm,
            negotiate_timeout=limits.NEGOTIATE_S,
            addrs_factory=announced,
            disable_identify_address_discovery=True,
        )
        self.swarm = swarm
        self._traffic = traffic
        self._on_identified = on_identified
        self._penalise = penalise
        self._open_streams: Counter[tuple[ID, str]] = Counter()
        self._queries: dict[trio.CancelScope, float] = {}  # in the DHT; since when, oldest first
        self._refusals: WeakKeyDictionary[IMuxedConn, TokenBucket] = WeakKeyDictionary()
        for protocol, handler in list(self.multiselect.handlers.items()):
            if protocol is not None and handler is not None:
                self.set_stream_handler(protocol, handler)

    def get_addrs(self) -> list[Multiaddr]:
        """What identify and we tell others. The library would cut the relay out of an address."""
        own = Multiaddr(f"/p2p/{self.get_id()}")
        assert self._addrs_factory is not None
        try:
            listening = list(self.get_transport_addrs())
        except OSError:  # asked by a peer while we leave: the listeners are closed
            listening = []
        return [a.encapsulate(own) for a in self._addrs_factory(listening)]

    def protocols_of(self, peer: bytes) -> frozenset[str]:
        """What identify said; empty before."""
        peer_id = ID(peer)
        if peer_id not in self._identified_peers:
            return frozenset()
        return frozenset(self.peerstore.get_protocols(peer_id))

    def set_stream_handler(self, protocol_id: TProtocol, stream_handler: StreamHandlerFn) -> None:
        async def bounded(stream: INetStream) -> None:
            key = (stream.muxed_conn.peer_id, str(protocol_id))
            if self._open_streams[key] >= limits.STREAMS_PER_PROTOCOL_AND_PEER:
                await self._refuse(stream)
                return
            self._open_streams[key] += 1
            patience_s = limits.EXCHANGE_S if protocol_id in _EXCHANGES else math.inf
            try:
                with trio.move_on_after(patience_s) as patience:
                    if protocol_id == KADEMLIA:
                        self._take_place(patience)
                    await stream_handler(stream)
                if patience.cancelled_caught:
                    await reset_quietly(stream)
            finally:
                self._queries.pop(patience, None)
                self._open_streams[key] -= 1
                if not self._open_streams[key]:
                    del self._open_streams[key]

        super().set_stream_handler(protocol_id, bounded)

    def _take_place(self, query: trio.CancelScope) -> None:
        """One more query in the DHT; if there is no place for it, the oldest one ends, or this one
        if that is young: eight peers that ask nothing could keep all others out."""
        now_s = trio.current_time()
        if len(self._queries) >= limits.DHT_INBOUND:
            oldest, since_s = next(iter(self._queries.items()))
            if now_s - since_s < limits.DHT_SLOW_S:
                query.cancel()
                return
            oldest.cancel()
            del self._queries[oldest]
        self._queries[query] = now_s

    async def _swarm_stream_handler(self, net_stream: INetStream) -> None:
        connection = net_stream.muxed_conn
        crowd = len(connection.streams) if isinstance(connection, Yamux) else 0
        if crowd > limits.STREAMS_PER_CONNECTION:
            await self._refuse(net_stream)
            return
        try:
            await super()._swarm_stream_handler(net_stream)
        except STREAM_ERRORS:
            await reset_quietly(net_stream)
        except Exception:  # noqa: BLE001  the border: one stream must not take the node down
            self._traffic.handler_errors += 1
            _log.exception("a stream handler failed (%s)", net_stream.get_protocol())
            await reset_quietly(net_stream)

    async def _refuse(self, stream: INetStream) -> None:
        """One stream too many. A peer that goes on like that loses its connection."""
        self._traffic.refused_streams += 1
        await reset_quietly(stream)
        connection, now_s = stream.muxed_conn, trio.current_time()
        bucket = self._refusals.get(connection)
        if bucket is None:
            bucket = TokenBucket(limits.STREAM_FLOOD_BURST, limits.STREAM_FLOOD_PER_S, now_s)
            self._refusals[connection] = bucket
        if not bucket.take(now_s) and not connection.is_closed:
            self._penalise(connection.peer_id.to_bytes(), HIGH, "a flood of streams")
            await connection.close()

    async def _identify_peer(self, peer_id: ID, *, reason: str) -> None:
        """Runs as a system task of trio: an exception here would end the whole program."""
        try:
            await super()._identify_peer(peer_id, reason=reason)
            if peer_id in self._identified_peers:
                self._on_identified(peer_id.to_bytes())
        except Exception:  # noqa: BLE001  the border: what a peer says of itself
            self._traffic.handler_errors += 1
            _log.exception("identify of %s failed", peer_id)
