"""What decides about bulk uploads without a network: hours, allowance, tickets, standing."""

from __future__ import annotations

import math
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primed.p2p import limits
from primed.p2p.bulk.standing import Standing
from primed.p2p.bulk.tickets import TICKET_BYTES, Tickets
from primed.p2p.errors import RemoteError
from primed.p2p.hours import QuietHours
from primed.p2p.uplink import Uplink
from primed.p2p.uploads import BACKLOG_S, Uploads

A, B = b"a" * 38, b"b" * 38


@pytest.mark.parametrize(
    "text", ["", "22-7", "24:00-07:00", "22:60-07:00", "7:00-7:00", "x", "1:1"]
)
def test_quiet_hours_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        QuietHours.parse(text)


@pytest.mark.parametrize(
    ("text", "time", "left_s"),
    [
        ("22:30-07:00", "22:29:59", 0),
        ("22:30-07:00", "22:30:00", 8.5 * 3600),
        ("22:30-07:00", "06:59:30", 30),
        ("22:30-07:00", "07:00:00", 0),
        ("9:00-17:00", "12:00:00", 5 * 3600),
        ("9:00-17:00", "08:00:00", 0),
        ("00:00-23:59", "00:00:00", 86_400 - 60),
    ],
)
def test_quiet_hours_pass_midnight_and_say_what_is_left(
    text: str, time: str, left_s: float
) -> None:
    now = datetime.fromisoformat(f"2026-03-01T{time}")
    quiet = QuietHours.parse(text)
    assert quiet.left_s(now) == pytest.approx(left_s)
    assert QuietHours.parse(str(quiet)) == quiet
    if left_s:
        assert quiet.left_s(now + timedelta(seconds=left_s)) == 0


@given(
    st.lists(st.tuples(st.integers(1, 1 << 20), st.floats(0, 3)), min_size=1, max_size=60),
    st.floats(1e5, 1e8),
)
def test_what_is_sent_never_exceeds_the_cap_and_a_burst(
    takes: list[tuple[int, float]], cap: float
) -> None:
    now = [0.0]
    uploads = Uploads(cap, clock=lambda: now[0])
    burst = max(64 * 1024, 0.1 * cap)
    sent = 0
    for count, pause_s in takes:
        now[0] += pause_s
        sent += count
        allowed_at = now[0] + uploads.reserve(count)  # in full by then
        assert sent <= burst + cap * allowed_at + 1
        idle = burst + cap * now[0]
        if sent <= burst:
            assert allowed_at == now[0] or idle < sent


def test_without_a_cap_nothing_waits_and_beyond_the_backlog_no_work_begins() -> None:
    now = [0.0]
    assert Uploads(clock=lambda: now[0]).reserve(1 << 40) == 0
    uploads = Uploads(1e6, clock=lambda: now[0])
    assert uploads.why_not() == ("", 0.0)
    uploads.reserve(10_000_000)
    reason, wait_s = uploads.why_not()
    assert "cap" in reason and wait_s == pytest.approx(9.9 - BACKLOG_S, abs=0.01)
    now[0] += wait_s + 0.01
    assert uploads.why_not() == ("", 0.0)
    assert math.isinf(Uploads().cap_bytes_per_s)


def test_a_ticket_is_for_one_peer_once_and_for_seconds() -> None:
    tickets: Tickets[int] = Tickets()
    got: list[int] = []
    token = tickets.issue(A, "p", got.append, 0.0, is_served=True)
    assert len(token) == TICKET_BYTES
    tickets.redeem(token, A, 1.0).admit(7)
    assert got == [7]
    with pytest.raises(RemoteError, match="unknown or used") as caught:
        tickets.redeem(token, A, 1.0)
    assert caught.value.peer == A and caught.value.penalty
    stolen = tickets.issue(A, "p", got.append, 0.0, is_served=True)
    with pytest.raises(RemoteError, match="another peer") as caught:
        tickets.redeem(stolen, B, 1.0)
    assert caught.value.peer == B and caught.value.penalty
    with pytest.raises(RemoteError, match="used"):  # burnt: it is known to more than one
        tickets.redeem(stolen, A, 1.0)
    late = tickets.issue(A, "p", got.append, 0.0, is_served=False)
    with pytest.raises(RemoteError, match="expired") as caught:
        tickets.redeem(late, A, limits.BULK_TICKET_S + 0.1)
    assert not caught.value.penalty
    tickets.issue(B, "p", got.append, 0.0, is_served=True)
    assert tickets.lapse(1.0) == []
    assert [ticket.peer for ticket in tickets.lapse(100.0)] == [B]
    assert len(tickets) == 0 and got == [7]


def test_pauses_double_up_to_a_limit_and_end_with_success() -> None:
    standing = Standing()
    pauses = []
    for _ in range(12):
        standing.failed(A, "broken", 0.0)
        pauses.append(float(standing.why_not(A, 0.0).split("again in ")[1].split(" s")[0]))
    assert pauses[:4] == [1, 2, 4, 8] and pauses[-1] == limits.BULK_PAUSE_LAST_S
    assert standing.why_not(A, 1e6) == ""
    assert standing.why_not(B, 0.0) == ""
    standing.worked(A)
    standing.busy(A, "busy", 2.0, 0.0)
    assert standing.why_not(A, 1.0) == "busy; again in 1 s"
    assert standing.why_not(A, 2.0) == ""
    standing.failed(A, "broken", 0.0)
    assert "again in 1 s" in standing.why_not(A, 0.0)


class Line:
    """Sends as fast as a line of so many bytes a second takes it, or as its cap lets it."""

    def __init__(self, bytes_per_s: float) -> None:
        self.now, self.bytes_per_s = 0.0, bytes_per_s
        self.uploads = Uploads(uplink=Uplink(128_000), clock=lambda: self.now)

    def send(self, seconds: float, chunk: int = 256 * 1024) -> float:
        """The mean rate over so many seconds of sending without a pause."""
        began, sent = self.now, 0
        while self.now - began < seconds:
            self.now += self.uploads.reserve(chunk)
            self.now += chunk / self.bytes_per_s
            sent += chunk
        return sent / (self.now - began)


def test_uploads_keep_to_four_fifths_of_what_the_line_was_measured_to_carry() -> None:
    line = Line(2e6)
    assert line.send(5) == pytest.approx(2e6, rel=0.01)  # not measured yet
    assert line.uploads.cap_bytes_per_s == math.inf
    line.send(10)
    assert line.uploads.cap_bytes_per_s == pytest.approx(1.6e6, rel=0.15)
    cap = line.uploads.cap_bytes_per_s
    waits = sum(line.uploads.reserve(1 << 20) for _ in range(1))
    assert waits > 0  # the burst is a tenth of a second's worth
    line.now += 30
    began, sent = line.now, 0
    while line.now - began < 60:
        line.now += line.uploads.reserve(1 << 18)
        sent += 1 << 18
    assert sent / 60 <= cap * 1.01 + (1 << 18)


def test_the_line_is_measured_again_so_that_a_slow_peer_does_not_hold_the_cap_down() -> None:
    line = Line(4e5)  # the first peer's own line
    line.send(20)
    low = line.uploads.cap_bytes_per_s
    assert low == pytest.approx(3.2e5, rel=0.15)
    line.bytes_per_s = 4e6
    line.send(60)
    assert line.uploads.cap_bytes_per_s == low
    line.now += 600
    line.send(15)
    assert line.uploads.cap_bytes_per_s == pytest.approx(3.2e6, rel=0.15)


def test_now_and_then_a_message_is_no_measure_of_a_line() -> None:
    line = Line(1e7)
    for _ in range(100):
        assert line.uploads.reserve(1000) == 0
        line.now += 4.0
    assert line.uploads.cap_bytes_per_s == math.inf


def test_the_cap_is_never_so_low_that_peers_take_us_for_silent() -> None:
    line = Line(1e5)
    line.send(30)
    assert line.uploads.cap_bytes_per_s == 128_000
