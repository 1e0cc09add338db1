"""What waits to be written to one gossip peer: encoded once, shared by all queues, bounded.

The library copies a message three times for every peer, bounds the queue by 32 entries (a burst of
64 shards loses 3 of 4) and lets several tasks write to one stream. Here two tasks drain a queue
under one write lock (`gossip`): control and small messages in order, at once; large ones in random
order, as the upload allowance lets them go, so that no two peers wait for the same shard.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import trio
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.rpc_queue import RpcQueue

from primed.p2p import limits


class Letter(NamedTuple):
    """An encoded RPC. `message_id` and `payload_bytes` are of the one message in it, if any;
    `is_first`: nobody else will send it soon, since few have the message yet."""

    encoded: bytes
    message_id: bytes = b""
    payload_bytes: int = 0
    is_first: bool = False

    @property
    def is_large(self) -> bool:
        return self.payload_bytes >= limits.HOLD_FROM_BYTES


class Outbox(RpcQueue):
    """Small letters first in, first out, control before messages; large ones apart."""

    def __init__(self, rng: random.Random | None = None) -> None:
        super().__init__(max_message_size=limits.GOSSIP_RPC_BYTES)
        self.waiting_bytes = 0
        self._rng = rng or random.Random()
        self._urgent: deque[Letter] = deque()
        self._letters: deque[Letter] = deque()
        self._first: list[Letter] = []
        self._large: list[Letter] = []
        self._wake_up = trio.Event()
        self._wake_up_large = trio.Event()
        self._has_room = trio.Event()
        self._is_closed = False

    def __len__(self) -> int:
        queues = (self._urgent, self._letters, self._first, self._large)
        return sum(map(len, queues))

    @property
    def closed(self) -> bool:
        return self._is_closed

    @property
    def has_first(self) -> bool:
        """Whether messages wait here that nobody else has."""
        return bool(self._first)

    @property
    def large_bytes(self) -> int:
        """What one of the large letters that wait will take of the upload allowance."""
        queue = self._first or self._large
        return len(queue[-1].encoded) if queue else 0

    def push(self, rpc: rpc_pb2.RPC, priority: bool = False) -> bool:
        """The library's way in, for announcements."""
        rpc.ClearField("senderRecord")  # identify tells addresses; a signature a message costs
        return self.put(Letter(rpc.SerializeToString()), urgent=priority)

    def put(self, letter: Letter, *, urgent: bool = False) -> bool:
        """False when the queue is full or closed: the letter is not taken."""
        if self._is_closed or self._is_full(letter):
            return False
        self.waiting_bytes += len(letter.encoded)
        if letter.is_large:
            (self._first if letter.is_first else self._large).append(letter)
            self._wake_up_large.set()
        else:
            (self._urgent if urgent else self._letters).append(letter)
            self._wake_up.set()
        return True

    async def put_in_time(self, letter: Letter) -> bool:
        """Wait for room, but not longer than a peer may be slow; whether it was taken."""
        with trio.move_on_after(limits.GOSSIP_ROOM_S):
            while not self._is_closed:
                if self.put(letter):
                    return True
                if self._has_room.is_set():  # else others wait for it already
                    self._has_room = trio.Event()
                await self._has_room.wait()
        return False

    def _is_full(self, letter: Letter) -> bool:
        is_heavy = self.waiting_bytes + len(letter.encoded) > limits.GOSSIP_QUEUE_BYTES
        return is_heavy or len(self) >= limits.GOSSIP_QUEUE_ENTRIES

    async def take(self) -> Letter | None:
        """The next small letter; None when closed."""
        while not self._is_closed:
            queue = self._urgent or self._letters
            if queue:
                return self._taken(queue.popleft())
            self._wake_up = trio.Event()
            await self._wake_up.wait()
        return None

    async def wait_large(self) -> bool:
        """Until there is a large letter; False when closed."""
        while not self._is_closed:
            if self._first or self._large:
                return True
            self._wake_up_large = trio.Event()
            await self._wake_up_large.wait()
        return False

    def take_large(self, is_unwanted: Callable[[bytes], bool]) -> Letter | None:
        """A large letter by chance, those that nobody else has before others. Letters that the
        peer does not need any more are dropped on the way."""
        while queue := self._first or self._large:
            index = self._rng.randrange(len(queue))
            queue[index], queue[-1] = queue[-1], queue[index]
            letter = self._taken(queue.pop())
            if not is_unwanted(letter.message_id):
                return letter
        return None

    def _taken(self, letter: Letter) -> Letter:
        self.waiting_bytes -= len(letter.encoded)
        self._has_room.set()
        return letter

    def close(self) -> None:
        self._is_closed = True
        for queue in (self._urgent, self._letters, self._first, self._large):
            queue.clear()
        for event in (self._wake_up, self._wake_up_large, self._has_room):
            event.set()
