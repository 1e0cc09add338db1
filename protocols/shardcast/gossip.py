"""Pushed shards: their validation (pure), and a bounded store for those that came too early."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from primed.p2p.errors import RemoteError
from primed.p2p.network import Acceptance
from primed.protocols.framing import decode
from primed.protocols.limits import EARLY_LEAVES_BYTES, LARGE_LEAF_BYTES, PUSH_MAX_BYTES
from primed.protocols.shardcast.messages import Shard, shards, shards_message
from primed.protocols.shardcast.store import fits
from primed.verify import signing
from primed.verify.statements import Payload

SHARD_MAX_BYTES = LARGE_LEAF_BYTES + 2048  # path, payload and signature beside the leaf


class ShardOutcome(NamedTuple):
    acceptance: Acceptance
    reason: str
    shard: Shard | None = None


def validate_shard(
    run: bytes, learner: bytes, is_here: Callable[[Payload, int], bool], message: bytes
) -> ShardOutcome:
    """A message on a learner's shard topic. is_here(payload, index): already stored or buffered."""
    if len(message) > SHARD_MAX_BYTES:
        return ShardOutcome(Acceptance.REJECT, "message too large")  # REJECT
    try:
        shard = decode(shards, message)
    except RemoteError as error:
        return ShardOutcome(Acceptance.REJECT, error.reason)  # REJECT
    payload = shard.payload
    if payload.size_bytes > PUSH_MAX_BYTES:
        return ShardOutcome(Acceptance.REJECT, "payload too large to be pushed")  # REJECT
    if is_here(payload, shard.index):
        return ShardOutcome(Acceptance.IGNORE, "seen already")  # IGNORE
    if not fits(payload, shard.index, shard.leaf, shard.path):
        return ShardOutcome(Acceptance.REJECT, "leaf is not in the payload")  # REJECT
    body = shards_message(run, learner, payload)
    if not signing.is_signed_by(learner, "shards", body, shard.signature):
        return ShardOutcome(Acceptance.REJECT, "signature is not the learner's")  # REJECT
    return ShardOutcome(Acceptance.ACCEPT, "", shard)


class EarlyShards:
    """Valid leaves whose manifest has not arrived; the oldest make room for newer ones."""

    def __init__(self) -> None:
        self._shards: OrderedDict[tuple[Payload, int], Shard] = OrderedDict()
        self._bytes = 0

    def __contains__(self, key: tuple[Payload, int]) -> bool:
        return key in self._shards

    def add(self, shard: Shard) -> None:
        key = (shard.payload, shard.index)
        if key in self._shards:
            return
        self._shards[key] = shard
        self._bytes += len(shard.leaf)
        while self._bytes > EARLY_LEAVES_BYTES:
            _, oldest = self._shards.popitem(last=False)
            self._bytes -= len(oldest.leaf)

    def take(self, payload: Payload) -> list[Shard]:
        """Leaves of one payload, which are then no longer held."""
        keys = [key for key in self._shards if key[0] == payload]
        taken = [self._shards.pop(key) for key in keys]
        self._bytes -= sum(len(shard.leaf) for shard in taken)
        return taken
