"""The bulk lane between real hosts: both directions, places, caps, cancellation, what is shown."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime

import pytest
import trio

from primed.p2p import limits
from primed.p2p.bulk import PROTOCOL
from primed.p2p.errors import NoLane, RemoteError
from primed.p2p.host import Libp2pNetwork
from primed.p2p.hours import QuietHours
from primed.p2p.identity import Identity
from primed.p2p.network import BulkChannel
from primed.p2p.uploads import Uploads

from .bulk_talk import (
    PURPOSE,
    fetch,
    get_bytes,
    nothing_left_behind,
    ready,
    serve_bytes,
    sockets,
)
from .hosts import ECHO, PROFILE, echo, started, until

pytestmark = pytest.mark.trio
MIB = 1 << 20


def serving(profile: limits.Profile = PROFILE, uploads: Uploads | None = None) -> Libp2pNetwork:
    network = Libp2pNetwork(Identity.generate(), profile=profile, uploads=uploads)
    network.handle(ECHO, echo)
    network.bulk.serve(PURPOSE, serve_bytes)
    return network


async def test_whoever_can_be_dialled_listens_and_either_side_may_ask() -> None:
    a, b = serving(), serving()
    with nothing_left_behind():
        async with started(a, b):
            await ready(a, b)
            assert b.bulk.describe(a.peer) == ("bulk", "we dial")
            assert a.bulk.describe(b.peer) == ("bulk", "the peer dials")
            await fetch(b, a.peer, 3 * MIB)  # the asker dials
            await fetch(a, b.peer, 3 * MIB)  # the asker is dialled
            for network in (a, b):
                assert network.traffic.bulk_received_bytes >= 3 * MIB
                assert network.traffic.handler_errors == 0
                assert all(info.score >= 0 for info in network.peers())


async def test_cancelling_cuts_the_channel_and_ends_both_threads() -> None:
    a, b = serving(), serving()
    ended = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def stall(channel: BulkChannel) -> None:
        try:
            channel.recv_into(bytearray(1))
        finally:
            token.run_sync_soon(ended.set)

    a.bulk.serve("stall", stall)
    async with started(a, b):
        await ready(a, b)
        before = sockets()
        began = time.monotonic()
        with trio.move_on_after(0.3) as scope:
            await b.bulk.converse(a.peer, "stall", lambda c: c.recv_into(bytearray(1)))
        assert scope.cancelled_caught
        with trio.fail_after(6):
            await ended.wait()
        assert time.monotonic() - began < 6
        await until(lambda: sockets() <= before)
        await fetch(b, a.peer)


async def test_places_are_bounded_and_streams_are_named_as_the_way_meanwhile() -> None:
    profile = replace(PROFILE, bulk_up=1)
    a, b, c = serving(profile), serving(), serving()
    release = trio.Event()

    def hold(channel: BulkChannel) -> None:
        channel.send_all(b"x")
        trio.from_thread.run(release.wait)

    a.bulk.serve("hold", hold)
    async with started(a, b, c):
        await ready(a, b)
        await ready(a, c)
        held = trio.Event()

        def take(channel: BulkChannel) -> None:
            channel.recv_into(bytearray(1))
            trio.from_thread.run_sync(held.set)
            channel.recv_into(bytearray(1))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(b.bulk.converse, a.peer, "hold", take)
            await held.wait()
            assert "1 asked" in b.bulk.describe(a.peer)[1]
            assert "1 served" in a.bulk.describe(b.peer)[1]
            with pytest.raises(NoLane, match="busy with 1"):
                await c.bulk.converse(a.peer, PURPOSE, get_bytes(1))
            lane, why = next((i.lane, i.lane_reason) for i in c.peers() if i.peer == a.peer)
            assert lane == "streams" and "busy" in why and "again in" in why
            release.set()
        await until(lambda: not c.bulk.why_not(a.peer))
        await fetch(c, a.peer)


async def test_our_own_askings_are_bounded() -> None:
    a, b = serving(), serving(replace(PROFILE, bulk_down=1))

    def stall(channel: BulkChannel) -> None:
        channel.recv_into(bytearray(1))

    a.bulk.serve("stall", stall)
    async with started(a, b):
        await ready(a, b)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(b.bulk.converse, a.peer, "stall", stall)
            await until(lambda: "1 asked" in b.bulk.describe(a.peer)[1])
            with pytest.raises(NoLane, match="are the most"):
                await b.bulk.converse(a.peer, PURPOSE, get_bytes(1))
            nursery.cancel_scope.cancel()


async def test_a_peer_without_the_lane_or_the_purpose_is_said_to_be_so() -> None:
    a, b = serving(), serving()
    a._handlers._handlers.pop(PROTOCOL)
    async with started(a, b):
        await until(lambda: b.bulk.why_not(a.peer) == "the peer has no bulk lane")
        with pytest.raises(NoLane, match="has no bulk lane"):
            await b.bulk.converse(a.peer, PURPOSE, get_bytes(1))
        await ready(a, a)
        with pytest.raises(NoLane, match="nothing is served under that name"):
            await a.bulk.converse(b.peer, "unheard of", get_bytes(1))
        with pytest.raises(NoLane, match="no direct connection"):
            await a.bulk.converse(Identity.generate().peer, PURPOSE, get_bytes(1))


async def test_an_upload_cap_holds_and_quiet_hours_refuse() -> None:
    now = [datetime(2026, 1, 1, 12, 0)]
    uploads = Uploads(MIB, QuietHours.parse("22:00-07:00"), local_time=lambda: now[0])
    a, b = serving(uploads=uploads), serving()
    async with started(a, b):
        await ready(a, b)
        began = time.monotonic()
        await fetch(b, a.peer, 2 * MIB)
        assert 1.7 < time.monotonic() - began < 10
        now[0] = datetime(2026, 1, 1, 23, 0)
        with pytest.raises(NoLane, match="quiet hours"):
            await b.bulk.converse(a.peer, PURPOSE, get_bytes(1))
        assert "quiet hours (22:00-07:00)" in b.bulk.describe(a.peer)[1]
        await fetch(a, b.peer)  # downloads go on


async def test_a_failing_conversation_is_retried_ever_more_rarely_and_forgiven_on_success(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "BULK_PAUSE_FIRST_S", 0.2)
    a, b = serving(), serving()

    def hang_up(channel: BulkChannel) -> None:
        raise RemoteError("no more")

    a.bulk.serve("short", hang_up)
    async with started(a, b):
        await ready(a, b)
        for _ in range(2):
            with pytest.raises((RemoteError, AssertionError)):
                await b.bulk.converse(a.peer, "short", _fail)
            assert "again in" in b.bulk.why_not(a.peer)
            await until(lambda: not b.bulk.why_not(a.peer))
        await fetch(b, a.peer)
        assert b.bulk.why_not(a.peer) == ""


async def test_an_end_inside_a_message_is_no_offence_but_pauses_the_lane() -> None:
    """As of a daemon that is stopped while it serves."""
    a, b = serving(), serving()

    def stop_halfway(channel: BulkChannel) -> None:
        channel.recv_into(bytearray(8))
        channel.send_all(bytes(MIB))

    a.bulk.serve("half", stop_halfway)
    async with started(a, b):
        await ready(a, b)
        with pytest.raises(RemoteError, match="ended inside a message"):
            await b.bulk.converse(a.peer, "half", get_bytes(2 * MIB))
        assert "again in" in b.bulk.why_not(a.peer)
        assert [info.score for info in b.peers()] == [0]


def _fail(channel: BulkChannel) -> None:
    if not channel.recv_into(bytearray(1)):
        raise RemoteError("ended", peer=channel.peer)


async def test_errors_of_the_talk_come_out_as_they_are() -> None:
    a, b = serving(), serving()

    def full(channel: BulkChannel) -> None:
        raise OSError(28, "No space left on device")

    async with started(a, b):
        await ready(a, b)
        with pytest.raises(OSError, match="No space left"):
            await b.bulk.converse(a.peer, PURPOSE, full)
        await fetch(b, a.peer)
