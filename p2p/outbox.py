"""What waits to be written to one gossip peer: encoded once, shared by all queues, bounded.

The library copies a message three times for every peer, bounds the queue by 32 entries (a burst
of 64 shards loses 3 of 4) and lets several tasks write to one stream. One task drains this.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import trio
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.rpc_queue import RpcQueue

from primed.p2p import limits


class Letter(NamedTuple):
    """An encoded RPC. `message_id` and `payload_bytes` are of the one message in it, if any."""

    encoded: bytes
    message_id: bytes = b""
    payload_bytes: int = 0


class Outbox(RpcQueue):
    """First in, first out; control before messages."""

    def __init__(self) -> None:
        super().__init__(max_message_size=limits.GOSSIP_RPC_BYTES)
        self._urgent: deque[Letter] = deque()
        self._letters: deque[Letter] = deque()
        self._waiting_bytes = 0
        self._wake_up = trio.Event()
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._urgent) + len(self._letters)

    @property
    def closed(self) -> bool:
        return self._is_closed

    def push(self, rpc: rpc_pb2.RPC, priority: bool = False) -> bool:
        """The library's way in, for announcements."""
        rpc.ClearField("senderRecord")  # identify tells addresses; a signature a message costs
        return self.put(Letter(rpc.SerializeToString()), urgent=priority)

    def put(self, letter: Letter, *, urgent: bool = False) -> bool:
        """False when the queue is full or closed: the letter is dropped."""
        full = self._waiting_bytes + len(letter.encoded) > limits.GOSSIP_QUEUE_BYTES
        if self._is_closed or full or len(self) >= limits.GOSSIP_QUEUE_ENTRIES:
            return False
        (self._urgent if urgent else self._letters).append(letter)
        self._waiting_bytes += len(letter.encoded)
        self._wake_up.set()
        return True

    async def take(self) -> Letter | None:
        """The next letter; None when closed."""
        while not self._is_closed:
            queue = self._urgent or self._letters
            if queue:
                letter = queue.popleft()
                self._waiting_bytes -= len(letter.encoded)
                return letter
            self._wake_up = trio.Event()
            await self._wake_up.wait()
        return None

    def close(self) -> None:
        self._is_closed = True
        self._urgent.clear()
        self._letters.clear()
        self._wake_up.set()
