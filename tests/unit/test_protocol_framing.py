"""Any bytes, on any message type and stream, give a message or a RemoteError (scenario 21, 34)."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.msgpack import Decoder

from primed.p2p.buckets import TokenBucket
from primed.p2p.errors import RemoteError
from primed.p2p.network import Acceptance
from primed.protocols import rpc
from primed.protocols.events import chains, validate_message
from primed.protocols.events import messages as events
from primed.protocols.framing import Framed, decode, encode
from primed.protocols.hello import messages as hello
from primed.protocols.limits import DATA_FRAME_BYTES, IDLE_S
from primed.protocols.rollouts import messages as rollouts
from primed.protocols.shardcast import messages as shardcast
from primed.protocols.shardcast.gossip import validate_shard
from primed.protocols.verdicts import messages as verdicts
from primed.verify.statements import Payload, Skipped, Verdict

PEER = b"p" * 38
DECODERS: list[Decoder[Any]] = [
    rpc.request_heads,
    rpc.response_heads,
    hello.requests,
    hello.responses,
    hello.records,
    events.requests,
    events.responses,
    events.signed_events,
    events.events,
    shardcast.requests,
    shardcast.responses,
    shardcast.shards,
    rollouts.requests,
    rollouts.responses,
    rollouts.headers,
    verdicts.requests,
    verdicts.responses,
]
EXAMPLES = [
    events.Event(bytes(32), PEER, 3, bytes(32), 1, Skipped(1, "x")),
    events.Event(
        bytes(32), PEER, 3, bytes(32), 1, Verdict(bytes(32), 0, "accept", "ok", {"a": 1.5})
    ),
    events.SignedEvent(b"x" * 100, bytes(64)),
    events.GetRange(bytes(32), PEER, 5, 6),
    shardcast.Shard(Payload(bytes(32), 9, 1024), bytes(64), 0, b"leaf", (bytes(32),)),
    shardcast.GetLeaves(bytes(32), Payload(bytes(32), 9, 1024), (0, 1)),
    hello.NodeRecord(PEER, ("worker",), ("/a/1",), ("/ip4/1.2.3.4",), (bytes(32),), "", 1, 2),
    rollouts.Offer(rollouts.BatchHeader(bytes(32), PEER, 1, bytes(32), bytes(32), 5)),
    rpc.RequestHead(1, 0, msgspec.Raw(b"\xc0")),
]


def hostile_bytes() -> st.SearchStrategy[bytes]:
    """Noise, prefixes of valid messages, and valid messages with a stretch replaced."""
    valid = st.sampled_from([encode(example) for example in EXAMPLES])
    truncated = st.tuples(valid, st.integers(0, 200)).map(lambda t: t[0][: t[1]])
    spliced = st.tuples(valid, st.integers(0, 200), st.binary(max_size=40)).map(
        lambda t: t[0][: t[1]] + t[2] + t[0][t[1] + len(t[2]) :]
    )
    return st.one_of(st.binary(max_size=300), truncated, spliced)


def assert_harmless(data: bytes) -> None:
    for decoder in DECODERS:
        try:
            decode(decoder, data, PEER)
        except RemoteError as error:
            assert error.peer == PEER and error.penalty > 0 and len(error.reason) <= 200
    assert isinstance(validate_message(chains.Chains(bytes(32)), 0, data).acceptance, Acceptance)
    outcome = validate_shard(bytes(32), PEER, lambda payload, index: False, data)
    assert isinstance(outcome.acceptance, Acceptance)


@given(hostile_bytes())
@settings(max_examples=400, deadline=None)
def test_scenario_21_any_bytes_give_a_message_or_a_remote_error(data: bytes) -> None:
    assert_harmless(data)


@pytest.mark.parametrize(
    "data",
    [
        *(b"\x91" * 200_000, b"\x81\xa1a" * 100_000, b"\xdc\xff\xff" * 1000),
        *(b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdf\x7f\xff\xff\xff", b"\xc1", b""),
        *(b"\x92\xa5greet\xff", b"\x92\xa3\xff\xfe\xfd\x01", b"\xcf" + b"\xff" * 8),
    ],
)
def test_scenario_21_nesting_and_huge_lengths_are_remote_errors(data: bytes) -> None:
    assert_harmless(data)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_scenario_34_numbers_that_are_not_finite_are_refused(number: float) -> None:
    body = Verdict(bytes(32), 0, "accept", "ok", {"margin": number})
    data = encode(events.Event(bytes(32), PEER, 0, bytes(32), 0, body))
    with pytest.raises(RemoteError, match="finite"):
        decode(events.events, data, PEER)


class Wire:
    """A Stream whose incoming bytes come from a function; it records what is done to it."""

    def __init__(self, read: Callable[[], bytes | None], pause_s: float = 1.0) -> None:
        self._read = read
        self._pause_s = pause_s
        self.peer = PEER

    async def read_some(self, max_bytes: int) -> bytes:
        data = self._read()
        if data is None:
            await trio.sleep_forever()
        await trio.sleep(self._pause_s)
        assert data is not None
        return data

    async def write_all(self, data: bytes) -> None:
        await trio.sleep_forever()

    async def close(self) -> None: ...

    async def reset(self) -> None: ...


def pieces(*data: bytes | None) -> Callable[[], bytes | None]:
    """Each piece once, then the end of the stream (or silence, if the last piece is None)."""
    left = list(data)
    return lambda: (left.pop(0) if left[0] is not None else None) if left else b""


async def read_all(framed: Framed, cap_bytes: int) -> list[bytes]:
    frames: list[bytes] = []
    while frame := await framed.read(cap_bytes):
        frames.append(frame)
    return frames


@given(st.lists(st.binary(max_size=40), max_size=6), st.integers(0, 64))
@settings(max_examples=150, deadline=None)
def test_any_stream_gives_frames_or_a_remote_error(parts: list[bytes], cap_bytes: int) -> None:
    async def main() -> None:
        data = [part for part in parts if part]
        try:
            for frame in await read_all(Framed(Wire(pieces(*data))), cap_bytes):
                assert 0 < len(frame) <= cap_bytes
        except RemoteError as error:
            assert error.peer == PEER

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=5), st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_scenario_5_slicing_changes_nothing(bodies: list[bytes], size: int) -> None:
    data = b"".join(len(body).to_bytes(4, "big") + body for body in bodies)
    sliced = [data[i : i + size] for i in range(0, len(data), size)]

    async def main() -> None:
        assert await read_all(Framed(Wire(pieces(*sliced), 0.0)), 50) == bodies

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def timed(body: Callable[[], object]) -> float:
    """Seconds of trio time that a coroutine function takes."""

    async def main() -> float:
        began = trio.current_time()
        await body()  # type: ignore[misc]
        return trio.current_time() - began

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_scenario_21_a_length_of_2_31_is_refused_before_anything_is_read_or_kept() -> None:
    read = pieces(b"\x80\x00\x00\x00" + b"x" * 100, None)

    async def body() -> None:
        with pytest.raises(RemoteError, match="2147483648 bytes") as caught:
            await Framed(Wire(read)).read(1 << 22)
        assert caught.value.penalty > 0

    assert timed(body) <= 1.0


def test_silence_inside_a_message_ends_after_10_s_and_costs_little() -> None:
    async def body() -> None:
        with pytest.raises(RemoteError, match="too slow") as caught:
            await Framed(Wire(pieces(b"\x00\x00", None))).read(100)
        assert caught.value.penalty <= 1

    assert IDLE_S <= timed(body) <= IDLE_S + 2


def test_scenario_4_a_byte_a_second_is_slower_than_256_kbit_and_ends() -> None:
    async def body() -> None:
        drip = pieces(b"\x00\x00\x10\x00", *[b"x"] * 100)
        with pytest.raises(RemoteError, match="too slow"):
            await Framed(Wire(drip)).read(1 << 16)

    assert timed(body) <= IDLE_S + 4


def test_an_idle_stream_may_wait_for_ever_but_an_answer_may_not() -> None:
    async def body() -> None:
        with pytest.raises(RemoteError, match="no answer") as caught:
            await Framed(Wire(pieces(None))).read(100)
        assert caught.value.penalty == 0
        with trio.move_on_after(3600) as scope:
            await Framed(Wire(pieces(None))).read(100, first_byte_s=math.inf)
        assert scope.cancelled_caught

    assert timed(body) >= 3600


def test_a_peer_that_takes_no_bytes_does_not_hold_the_writer() -> None:
    async def body() -> None:
        with pytest.raises(RemoteError, match="took no bytes"):
            await Framed(Wire(pieces(None))).write(b"x" * 32_000)

    assert timed(body) == pytest.approx(IDLE_S + 1, abs=0.5)


def test_attachments_are_in_full_frames_so_that_slowness_is_bounded_over_all() -> None:
    async def body() -> None:
        tiny = b"\x00\x00\x00\x01x"
        attachment = rpc.Attachment(Framed(Wire(pieces(tiny))), DATA_FRAME_BYTES)
        with pytest.raises(RemoteError, match="torn"):
            await attachment.read()

    timed(body)


def test_a_file_that_does_not_arrive_whole_is_removed(tmp_path: Path) -> None:
    async def main() -> None:
        frame = DATA_FRAME_BYTES.to_bytes(4, "big") + bytes(DATA_FRAME_BYTES)
        attachment = rpc.Attachment(Framed(Wire(pieces(frame), 0.0)), 2 * DATA_FRAME_BYTES)
        with pytest.raises(RemoteError):
            await rpc.read_to_file(attachment, tmp_path / "part")
        assert not list(tmp_path.iterdir())

    trio.run(main)


def test_the_token_bucket_delays_and_recovers() -> None:
    bucket = TokenBucket(burst=4, per_s=2, now_s=0.0)
    assert [bucket.delay(0.0) for _ in range(6)] == [0, 0, 0, 0, 0.5, 1.0]
    assert bucket.delay(100.0) == 0
