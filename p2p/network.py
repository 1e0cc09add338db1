"""`Network`: all that the rest of primed knows of the network.

`p2p.host.Libp2pNetwork` implements it over libp2p, `p2p.simnet.SimNetwork` in a simulation. Peer
ids are multihash bytes everywhere in code and base58 text (`p2p.peerid`) where people read them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, TypeVar

from primed.p2p.overlay import Redial
from primed.p2p.reachability import Reachability
from primed.p2p.uploads import Uploads
from primed.p2p.waits import OpenWaits

PeerId = bytes
T = TypeVar("T")


class Acceptance(Enum):
    """Outcome of gossip validation. Only REJECT costs the sender score."""

    ACCEPT = "accept"  # deliver and forward
    IGNORE = "ignore"  # drop silently: not wrong, only useless to us
    REJECT = "reject"  # drop and penalise


Validator = Callable[[PeerId, bytes], Acceptance]  # (who sent it to us, payload); pure and quick
Deliver = Callable[[PeerId, bytes], None]  # called for every accepted message; must not block
Handler = Callable[["Stream"], Awaitable[None]]
PeerListener = Callable[[PeerId, bool], None]  # (peer, connected?)


class Stream(Protocol):
    """A bidirectional byte stream to an authenticated peer. One reader and one writer at a time."""

    @property
    def peer(self) -> PeerId: ...

    async def read_some(self, max_bytes: int) -> bytes:
        """At least one byte, at most max_bytes; b"" at the end of the stream.
        Raises RemoteError when the stream was reset."""

    async def write_all(self, data: bytes) -> None:
        """Returns when the bytes are handed to the connection. Cancellation-safe: a cancelled
        write resets this stream, and the connection goes on. Raises RemoteError."""

    async def close(self) -> None:
        """End our side; never raises."""

    async def reset(self) -> None:
        """Drop the stream both ways; never raises."""


@dataclass(frozen=True)
class PeerInfo:
    """A connected peer, as `primed peers` shows it."""

    peer: PeerId
    addresses: tuple[str, ...]
    direction: str  # "in" or "out"
    connected_s: float
    score: float
    topics: tuple[str, ...] = ()
    lane: str = "streams"  # or "bulk": what large payloads travel on
    lane_reason: str = ""
    relayed: bool = False  # connected over a relay: nothing large goes there


@dataclass
class Traffic:
    """Bytes and counts since start, all monotonic. Gossip bytes are message payloads."""

    gossip_received_bytes: int = 0
    gossip_sent_bytes: int = 0
    gossip_messages: int = 0
    gossip_duplicates: int = 0
    gossip_rejected: int = 0
    stream_received_bytes: int = 0
    stream_sent_bytes: int = 0
    bulk_received_bytes: int = 0
    bulk_sent_bytes: int = 0
    handler_errors: int = 0
    malformed_rpcs: int = 0
    refused_connections: int = 0  # inbound, for lack of a place
    evicted_connections: int = 0  # inbound, from a crowded network, for one of another
    refused_streams: int = 0
    relayed_bytes: int = 0  # for others, when their circuits had ended
    extra: dict[str, int] = field(default_factory=dict)


class BulkChannel(Protocol):
    """Bytes to and from an authenticated peer, in a thread: calls block, none of them for ever.

    One thread uses it. Calls raise RemoteError when the peer is gone, silent for 10 s or slower
    than 256 kbit/s; the channel is of no use after that.
    """

    @property
    def peer(self) -> PeerId: ...

    @property
    def is_cut(self) -> bool:
        """Whether this side gave up: a `talk` that waits for other things ends itself then."""

    def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Returns when the system has taken the bytes. Waits for our upload allowance."""

    def recv_into(
        self, buffer: bytearray | memoryview, *, first_byte_s: float | None = None
    ) -> bool:
        """Fill the buffer. False if the peer ended the channel before the first byte of it."""


class Bulk(Protocol):
    """TLS connections beside libp2p, used in threads: what is large does not pass the trio loop."""

    def why_not(self, peer: PeerId) -> str:
        """Why a conversation with the peer would fail now, in words; "" if it may succeed."""

    async def converse(self, peer: PeerId, purpose: str, talk: Callable[[BulkChannel], T]) -> T:
        """Open a channel and run `talk` on it, in a thread; cancelling cuts the channel, which ends
        the thread. Raises NoLane if there is no channel to be had (take streams), RemoteError from
        the channel, and whatever `talk` raises."""

    def serve(self, purpose: str, talk: Callable[[BulkChannel], None]) -> None:
        """Answer conversations: `talk` runs in a thread, and the channel ends when it returns.
        A second call for the same purpose replaces it."""


class Network(Protocol):
    @property
    def peer(self) -> PeerId:
        """Our own id."""

    @property
    def traffic(self) -> Traffic: ...

    @property
    def uploads(self) -> Uploads:
        """What we may send of payloads, on all lanes together."""

    @property
    def waits(self) -> OpenWaits:
        """What it waits for, and the protocols over it."""

    @property
    def bulk(self) -> Bulk | None:
        """The bulk lane, where this network has one."""

    @property
    def reachability(self) -> Reachability:
        """Whether others can dial us, with evidence."""

    @property
    def port_mapping(self) -> str:
        """What came of asking the router to let others in, in one sentence."""

    @property
    def local_discovery(self) -> str:
        """How it stands with finding peers on the local network, in one sentence."""

    def listen_addresses(self) -> tuple[str, ...]:
        """Multiaddrs others can dial, ending in /p2p/<our id>."""

    def running(
        self, listen: Sequence[str], bootstrap: Sequence[str]
    ) -> AbstractAsyncContextManager[None]:
        """Hosts the network while entered; leaves no socket or task behind."""

    def peers(self) -> list[PeerInfo]: ...

    def state(self) -> tuple[str, str]:
        """("online" | "connecting" | "alone", the reason in one sentence)."""

    @property
    def is_running(self) -> bool:
        """Whether peers can be reached: False before `running` and when the host is down."""

    def redials(self) -> list[Redial]:
        """Whom we try to reach again, when, and why it did not work last time."""

    async def connect(self, address: str) -> PeerId:
        """Dial a multiaddr with /p2p/. Raises RemoteError; returns at once if connected."""

    async def open_stream(self, peer: PeerId, protocol: str) -> Stream:
        """Open a stream (dialling by known addresses if needed). Raises RemoteError within 10 s."""

    def handle(self, protocol: str, handler: Handler) -> None:
        """Serve a protocol. An exception in a handler resets that stream and is counted."""

    def subscribe(self, topic: str, validate: Validator, deliver: Deliver) -> None:
        """Join a topic. A second call for the same topic replaces both functions."""

    def unsubscribe(self, topic: str) -> None: ...

    async def publish(self, topic: str, data: bytes) -> None:
        """Gossip to the topic. Not delivered to ourselves. Raises LocalError above 1 MiB."""

    async def meet_nearest(self) -> None:
        """Look ourselves up in the DHT, which connects us to peers whose ids are near ours: whoever
        has our key, too, meets the same ones. Best effort, at most DHT_CALL_S."""

    async def provide(self, key: bytes) -> None:
        """Announce in the DHT that we serve this 32-byte key. Best effort, never raises RemoteError."""

    async def find_providers(self, key: bytes, count: int) -> list[tuple[PeerId, tuple[str, ...]]]:
        """Peers (without duplicates, without us) and their addresses. A hint: verify by hello."""

    def remember(self, peer: PeerId, known_at: Iterable[str], record: bytes = b"") -> None:
        """Learn addresses of a peer; it may be dialled there. record: what it signed about itself,
        kept in the peer book as it is."""

    def records(self) -> Mapping[PeerId, bytes]:
        """Records of the peer book, also of an earlier life."""

    def on_peer(self, listener: PeerListener) -> None:
        """Call the listener on every connect and disconnect. A bound method is held weakly: whose
        it is must be held by somebody else, and hears nothing more when it is not."""

    def penalise(self, peer: PeerId, points: int, reason: str) -> None:
        """Score a peer down; below the limits it is disconnected, then banned (kept across
        reconnects)."""
