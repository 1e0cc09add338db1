"""How dishonest participants cheat: their children's conduct, and what their nodes do besides.

Each vice is what an attacker can do with a modified program and its own key, no more.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import msgspec
import trio

from primed.p2p.errors import RemoteError
from primed.p2p.network import PeerId
from primed.protocols import events, hello, rollouts, shardcast
from primed.protocols.events.messages import Event, SignedEvent
from primed.protocols.framing import encode
from primed.protocols.rpc import Attachment
from primed.protocols.server import Reply, Server
from primed.protocols.shardcast.bitmap import Bitmap
from primed.protocols.shardcast.messages import (
    Gained,
    GetHave,
    GetLeaves,
    Have,
    Leaf,
    Leaves,
    Noted,
    requests,
)
from primed.protocols.shardcast.reader import leaf_size
from primed.protocols.topics import events_topic
from primed.training.messages import Checked
from primed.verify.batch import Batch
from primed.verify.signing import message_to_sign
from primed.verify.statements import Skipped

from .cast import Vice
from .children import Conduct
from .daemon import SimDaemon

SPREAD, SPREAD_EVERY_S = 12, 5.0  # a partition may keep the first from everybody
PROTOCOLS = (hello.PROTOCOL, events.PROTOCOL, shardcast.PROTOCOL, rollouts.PROTOCOL)
Task = Callable[[SimDaemon], Awaitable[None]]


class Loot:
    """Batches of honest workers that a copier got hold of."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def note(self, batch: Batch) -> Batch:
        self.batches.append(batch)
        return batch

    def copy(self, own: Batch) -> Batch:
        """Another worker's batch instead of the own one, disguised better and better."""
        if not self.batches:  # nothing to steal yet: its own answers to other questions
            return _changed_places(own)
        stolen = self.batches[-1]
        if own.counter % 3 == 0:
            return stolen
        if own.counter % 3 == 1:
            return msgspec.structs.replace(own, groups=stolen.groups)
        groups = tuple(
            msgspec.structs.replace(group, rollouts=other.rollouts)
            for group, other in zip(own.groups, stolen.groups, strict=True)
        )
        return msgspec.structs.replace(own, groups=groups)


def _changed_places(batch: Batch) -> Batch:
    groups = tuple(
        msgspec.structs.replace(group, rollouts=group.rollouts[::-1]) for group in batch.groups
    )
    return msgspec.structs.replace(batch, groups=groups)


def conduct_of(vice: Vice, death: float, loot: Loot) -> Conduct:
    match vice:
        case "model":
            return Conduct(death, bias=1)
        case "copy":
            return Conduct(death, forge=loot.copy)
        case "slander":
            return Conduct(death, opine=_rejected)
        case _:
            return Conduct(death, forge=loot.note)


def _rejected(checked: Checked) -> Checked:
    return msgspec.structs.replace(checked, outcome="reject", reason="sampling")


def task_of(vice: Vice, run_id: bytes, rng: random.Random) -> Task | None:
    """What the node of this vice does besides its role."""
    match vice:
        case "equivocate":
            return lambda daemon: _equivocate(daemon, run_id, rng)
        case "replay":
            return lambda daemon: _replay(daemon, run_id, rng)
        case "garbage":
            return lambda daemon: _send_garbage(daemon, rng)
        case "lie":
            return lambda daemon: _lie(daemon, run_id)
        case _:
            return None


def _signed(daemon: SimDaemon, event: Event) -> bytes:
    data = encode(event)
    signature = daemon.member.identity.sign(message_to_sign("event", data))
    return encode(SignedEvent(data, signature))


async def _equivocate(daemon: SimDaemon, run_id: bytes, rng: random.Random) -> None:
    """Sign a second event for the place of the newest one, and spread it (scenario 30)."""
    me = daemon.member.peer
    await trio.sleep(rng.uniform(15, 40))
    while True:
        services = daemon.services
        head = services.store.events.head(run_id, me) if services else None
        if services is not None and head is not None and head.seq >= 1:
            before = services.store.events.heads(run_id)
            (first,) = services.store.events.get(run_id, me, head.seq, 1)
            body = msgspec.msgpack.decode(first.event, type=Event)
            second = msgspec.structs.replace(body, body=Skipped(10**6 + len(before), "another"))
            daemon.world.trace.note(daemon.member.name, "equivocates", head.seq)
            for _ in range(SPREAD):
                await daemon.network.publish(events_topic(run_id), _signed(daemon, second))
                await trio.sleep(SPREAD_EVERY_S)
            return
        await trio.sleep(1.0)


async def _replay(daemon: SimDaemon, run_id: bytes, rng: random.Random) -> None:
    """Old events again, events of another run, events with a changed byte (scenario 29)."""
    me, topic = daemon.member.peer, events_topic(run_id)
    while True:
        await trio.sleep(rng.uniform(2, 5))
        if (services := daemon.services) is None:
            return
        heads = services.store.events.heads(run_id)
        for head in rng.sample(heads, min(3, len(heads))):
            seq = rng.randint(0, head.seq)
            (old,) = services.store.events.get(run_id, head.author, seq, 1)
            await daemon.network.publish(topic, encode(old))
        foreign = Event(bytes(32), me, 0, bytes(32), 0, Skipped(0, "of another run"))
        changed = bytearray(_signed(daemon, foreign))
        changed[-1] ^= 1
        await daemon.network.publish(topic, rng.choice([_signed(daemon, foreign), bytes(changed)]))


async def _send_garbage(daemon: SimDaemon, rng: random.Random) -> None:
    """Frames that are too long, requests that are none, half a message (scenario 21)."""
    while True:
        await trio.sleep(rng.uniform(1, 4))
        connected = daemon.network.connected()
        if not connected:
            continue
        data = rng.choice([b"\xff\xff\xff\xff", b"\x00\x00\x00\x10" + rng.randbytes(16), b"\x00"])
        try:
            stream = await daemon.network.open_stream(rng.choice(connected), rng.choice(PROTOCOLS))
            await stream.write_all(data)
            await stream.close()
        except RemoteError:
            pass


async def _lie(daemon: SimDaemon, run_id: bytes) -> None:
    """Claim to have every leaf of every payload, and give wrong bytes."""

    async def answer(peer: PeerId, message: GetHave | GetLeaves | Gained, _: Attachment) -> Reply:
        payload = message.payload
        if isinstance(message, Gained):
            return Reply(Noted((), False))
        if isinstance(message, GetHave):
            return Reply(Have(bytes(Bitmap.full(payload.leaves))))
        leaves = (Leaf(i, bytes(leaf_size(payload, i)), ()) for i in message.indexes)
        return Reply(Leaves(tuple(leaves)))

    while daemon.part(run_id) is None:  # the honest service comes first
        await trio.sleep(0.2)
    Server(daemon.network, shardcast.PROTOCOL, requests, answer)
