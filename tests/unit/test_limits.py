"""Limits that need no network, each exceeded by one: events, shards, records, manifests, log lines.
What needs real hosts is in tests/attack/test_limits.py."""

from __future__ import annotations

import json
import logging
import random
import struct
from pathlib import Path

import pytest
import trio

from primed.p2p.errors import HIGH, LocalError, RemoteError
from primed.p2p.logvalve import LogValve
from primed.p2p.network import Acceptance, Stream
from primed.protocols import limits
from primed.protocols.events import SignedEvent
from primed.protocols.events.chains import Chains
from primed.protocols.events.messages import Event, Stored, event_digest
from primed.protocols.events.validation import validate_event, validate_message
from primed.protocols.framing import Framed, encode
from primed.protocols.shardcast.gossip import SHARD_MAX_BYTES, EarlyShards, validate_shard
from primed.protocols.shardcast.messages import Shard
from primed.training import weights
from primed.verify.signing import message_to_sign
from primed.verify.statements import Body, Cut, Head, Joined, Payload

from ..net.memory_network import Fabric, Key
from ..net.protocol_samples import NOW_MS, RUN, skipped

AUTHOR = Key(7)


def signed(body: Body, seq: int = 0, key: Key = AUTHOR, unix_ms: int = NOW_MS) -> SignedEvent:
    data = encode(Event(RUN, key.peer, seq, RUN, unix_ms, body))
    return SignedEvent(data, key.sign(message_to_sign("event", data)))


def stored(seq: int, key: Key = AUTHOR) -> Stored:
    event = Event(RUN, key.peer, seq, bytes(32), NOW_MS, skipped(seq))
    data = encode(event)
    return Stored(SignedEvent(data, bytes(64)), event, event_digest(data))


def cut(heads: int) -> Cut:
    return Cut(1, RUN, tuple(Head(bytes(38), n, bytes(32)) for n in range(heads)), bytes(32))


def test_an_event_has_4_kib_and_only_a_cut_may_have_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chains = Chains(RUN)
    longest = signed(cut(600))
    assert limits.EVENT_MAX_BYTES < len(longest.event) < limits.CUT_MAX_BYTES
    for originator in (b"", Key(8).peer):  # anybody may state small cuts; they count for nothing
        chains.originator = originator
        refused = validate_event(chains, NOW_MS, longest)
        assert (refused.acceptance, refused.reason) == (Acceptance.REJECT, "event too large")
        assert validate_event(chains, NOW_MS, signed(cut(20))).acceptance is Acceptance.ACCEPT
    chains.originator = AUTHOR.peer
    assert validate_event(chains, NOW_MS, longest).acceptance is Acceptance.ACCEPT
    monkeypatch.setattr("primed.protocols.events.validation.EVENT_MAX_BYTES", 300)
    wordy = signed(Joined(("worker",) * 6, "x" * 200))
    assert len(wordy.event) > 300  # no statement but a cut has more than 4 KiB by its own bounds
    assert validate_event(chains, NOW_MS, wordy).reason == "event too large"
    message = encode(longest) + bytes(limits.CUT_MAX_BYTES)
    assert validate_message(chains, NOW_MS, message).reason == "message too large"


def test_a_run_hears_so_many_authors_and_ignores_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("primed.protocols.events.chains.AUTHORS_MAX", 3)
    chains = Chains(RUN)
    for number in range(3):
        chains.append(Key(100 + number).peer, bytes(32))
    one_more = validate_event(chains, NOW_MS, signed(skipped(0), key=Key(200)))
    assert (one_more.acceptance, one_more.reason) == (Acceptance.IGNORE, "too many authors")
    known = validate_event(chains, NOW_MS, signed(skipped(0), 1, Key(100)))
    assert known.acceptance is Acceptance.ACCEPT


def test_events_that_wait_for_others_are_few_for_an_author_and_in_all() -> None:
    chains = Chains(RUN)
    for seq in range(1, 10 * limits.PENDING_PER_AUTHOR):
        chains.hold(stored(seq))
    assert chains._pending_total == limits.PENDING_PER_AUTHOR
    assert chains.hold(stored(0))  # nearer than all that wait: the furthest gives way
    assert chains._pending_total == limits.PENDING_PER_AUTHOR
    for number in range(limits.PENDING_TOTAL):
        chains.hold(stored(5, Key(1000 + number)))
    assert chains._pending_total == limits.PENDING_TOTAL
    assert not chains.hold(stored(5, Key(9)))


def test_pushed_leaves_without_a_manifest_fill_8_mib_and_no_more() -> None:
    early, rng = EarlyShards(), random.Random(1)
    for number in range(200):
        payload = Payload(rng.randbytes(32), 1 << 20, limits.SMALL_LEAF_BYTES)
        leaf = bytes(limits.SMALL_LEAF_BYTES)
        early.add(Shard(payload, bytes(64), number % 16, leaf, ()))
    held = sum(len(shard.leaf) for shard in early._shards.values())
    assert held == early._bytes == limits.EARLY_LEAVES_BYTES


def test_a_push_is_of_a_small_payload_and_one_leaf() -> None:
    def judged(payload: Payload, leaf: bytes, path: tuple[bytes, ...] = ()) -> str:
        shard = Shard(payload, bytes(64), 0, leaf, path)
        outcome = validate_shard(RUN, AUTHOR.peer, lambda *_: False, encode(shard))
        assert outcome.acceptance is Acceptance.REJECT
        return outcome.reason

    large = Payload(bytes(32), limits.PUSH_MAX_BYTES + 1, limits.SMALL_LEAF_BYTES)
    assert judged(large, b"x") == "payload too large to be pushed"
    small = Payload(bytes(32), 1 << 20, limits.SMALL_LEAF_BYTES)
    assert "length" in judged(small, bytes(limits.LARGE_LEAF_BYTES + 1))
    assert "length" in judged(small, b"x", (bytes(32),) * 23)
    huge = validate_shard(RUN, AUTHOR.peer, lambda *_: False, bytes(SHARD_MAX_BYTES + 1))
    assert huge.reason == "message too large"


def test_a_manifest_of_20_001_tensors_is_refused(tmp_path: Path) -> None:
    def file_of(count: int) -> Path:
        entry = {"dtype": "BF16", "shape": [0], "data_offsets": [0, 0]}
        text = json.dumps(dict.fromkeys(map(str, range(count)), entry), separators=(",", ":"))
        path = tmp_path / str(count)
        path.write_bytes(struct.pack("<Q", len(text)) + text.encode())
        return path

    count = weights.TENSORS_MAX + 1
    assert file_of(count).stat().st_size > weights.HEADER_MAX_BYTES  # so that comes first
    with pytest.raises(weights.BadWeights, match="header of"):
        weights.read(file_of(count))


def test_tensors_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "TENSORS_MAX", 2)
    entry = {"dtype": "BF16", "shape": [0], "data_offsets": [0, 0]}
    for count in (2, 3):
        text = json.dumps({str(n): entry for n in range(count)}).encode()
        (tmp_path / "w").write_bytes(struct.pack("<Q", len(text)) + text + bytes(2))
        with pytest.raises(weights.BadWeights, match="3 tensors" if count == 3 else "cover 0 of 2"):
            weights.read(tmp_path / "w")


@pytest.mark.trio
async def test_a_frame_has_4_mib_and_not_a_byte_more() -> None:
    async with trio.open_nursery() as nursery:
        fabric = Fabric(nursery)
        one, other = fabric.node(1), fabric.node(2)
        fabric.link(one, other)
        read: list[int] = []

        async def serve(stream: Stream) -> None:
            frames = Framed(stream)
            with pytest.raises(RemoteError) as caught:
                while data := await frames.read(limits.FRAME_MAX_BYTES):
                    read.append(len(data))
            assert caught.value.penalty == HIGH and caught.value.peer == other.peer
            read.append(-1)

        one.handle("/test/1", serve)
        stream = await other.open_stream(one.peer, "/test/1")
        await stream.write_all(limits.FRAME_MAX_BYTES.to_bytes(4, "big"))
        await stream.write_all(bytes(limits.FRAME_MAX_BYTES))
        await stream.write_all((limits.FRAME_MAX_BYTES + 1).to_bytes(4, "big"))
        with trio.fail_after(10):
            while read != [limits.FRAME_MAX_BYTES, -1]:
                await trio.sleep(0.01)
        assert not one.handler_errors


@pytest.mark.trio
async def test_our_own_event_over_the_limit_is_not_signed() -> None:
    from ..net.test_protocol_events import fabric_of

    async with fabric_of(1) as (_, (node,)):
        with pytest.raises(LocalError, match="bytes"):
            await node.log.emit(cut(2000))
        assert node.log.heads() == []


def test_scenario_25_lines_that_peers_cause_are_counted_beyond_so_many_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [0.0]
    valve = LogValve(logging.getLogger("primed.test"), 10, lambda: now[0])
    caplog.set_level(logging.INFO, "primed.test")
    for number in range(5000):
        now[0] += 0.01
        valve.log(logging.INFO, "%d", number)
    assert len(caplog.records) == 11  # one says that the rest is counted
    now[0] += 60
    valve.log(logging.INFO, "later")
    assert [record.getMessage() for record in caplog.records[-2:]] == [
        "4990 lines of peers' faults were not logged",
        "later",
    ]
