"""`Network`: all that the rest of primed knows of the network.

`p2p.host.Libp2pNetwork` implements it over libp2p; a simulated one follows. Peer ids are multihash
bytes everywhere in code and base58 text (`p2p.peerid`) where people read them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

PeerId = bytes


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
    handler_errors: int = 0
    malformed_rpcs: int = 0
    extra: dict[str, int] = field(default_factory=dict)


class Network(Protocol):
    @property
    def peer(self) -> PeerId:
        """Our own id."""

    @property
    def traffic(self) -> Traffic: ...

    def listen_addresses(self) -> tuple[str, ...]:
        """Multiaddrs others can dial, ending in /p2p/<our id>."""

    def running(
        self, listen: Sequence[str], bootstrap: Sequence[str]
    ) -> AbstractAsyncContextManager[None]:
        """Hosts the network while entered; leaves no socket or task behind."""

    def peers(self) -> list[PeerInfo]: ...

    def state(self) -> tuple[str, str]:
        """("online" | "connecting" | "alone", the reason in one sentence)."""

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

    async def provide(self, key: bytes) -> None:
        """Announce in the DHT that we serve this 32-byte key. Best effort, never raises RemoteError."""

    async def find_providers(self, key: bytes, count: int) -> list[tuple[PeerId, tuple[str, ...]]]:
        """Peers (without duplicates, without us) and their addresses. A hint: verify by hello."""

    def on_peer(self, listener: PeerListener) -> None:
        """Call the listener on every connect and disconnect."""

    def penalise(self, peer: PeerId, points: int, reason: str) -> None:
        """Score a peer down; below the limits it is disconnected, then banned (kept across
        reconnects)."""
