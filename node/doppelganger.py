"""One key on two machines: found before anything is signed, and the later one gives way.

Two daemons with one key would sign two events with one sequence number, which is punished as fraud.
So a daemon that starts shows its record to its peers and asks for records of its own key that
another session signed (`protocols.hello`), and before it is sure, of the peers nearest to its id in
the DHT, whom another daemon with this key has met as well. Peers may show what they kept of sessions
that have ended. Only a record that *names our session* proves that the other one lived when ours did, whatever the
clocks say; any other makes us wait for a lease at most, within which the living name whom they are
shown. Sessions of this data directory on this machine (`node.sessions`) mean nothing.

Who gives way: a session that is still starting, to one that has begun; of two that are starting the
one with the larger session number; of two that have begun (they could not see each other) the later.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import structlog
import trio

from primed.node.problems import Problems
from primed.node.waits import Waits
from primed.p2p import limits, peerid
from primed.p2p.errors import RemoteError, UserError
from primed.protocols.hello import Hello, NodeRecord
from primed.protocols.limits import LEASE_S, SESSIONS_NAMED

EXIT_DUPLICATE = 4
ASK_AGAIN_S = 1.0
ASKED_AGAIN = 3  # peers
SIGHTINGS_MAX = 256
PEERS_S, ALONE_S = 10.0, 1.0  # to find somebody to ask
Peers = Callable[[], Sequence[bytes]]
Outcome = Literal["clear", "waiting", "give way", "other gives way"]
_log = structlog.get_logger("primed.doppelganger")


@dataclass
class _Seen:
    """Of one session: until when it may still prove that it lives, and its newest proof."""

    wait_until: float
    sequence: int = -1


class Doubles:
    """What is known of other sessions of our key. Pure: times are passed in."""

    def __init__(self, session: bytes, former: Collection[bytes], lease_s: float = LEASE_S) -> None:
        """former: sessions of this data directory on this machine, which have ended."""
        self.since_unix_ms = 0  # when we began to act; 0: starting
        self.living: NodeRecord | None = None  # of the other session that named ours last
        self._living_until = 0.0
        self._session = session
        self._former = frozenset(former)
        self._lease_s = lease_s
        self._seen: dict[bytes, _Seen] = {}  # by session, the one shown last at the end

    @property
    def named(self) -> tuple[bytes, ...]:
        """The sessions that our record is to name."""
        return tuple(self._seen)[-SESSIONS_NAMED:]

    def saw(self, record: NodeRecord, now: float) -> bool:
        """A peer showed a record of our key. Whether it is the first one of another session."""
        if record.session == self._session or record.session in self._former:
            return False
        known = self._seen.pop(record.session, None)
        seen = self._seen[record.session] = known or _Seen(now + self._lease_s)
        if self._session in record.others and record.sequence > seen.sequence:
            seen.sequence = record.sequence
            self.living, self._living_until = record, now + self._lease_s
        if len(self._seen) > SIGHTINGS_MAX:
            del self._seen[next(iter(self._seen))]
        return known is None

    def outcome(self, now: float) -> Outcome:
        if self.living is None or now > self._living_until:
            return "waiting" if self.left_s(now) else "clear"
        return "give way" if self._is_earlier(self.living) else "other gives way"

    def left_s(self, now: float) -> float:
        """How long it may take until the other session counts as ended."""
        return max([0.0, *(seen.wait_until - now for seen in self._seen.values())])

    def _is_earlier(self, other: NodeRecord) -> bool:
        if self.since_unix_ms and other.since_unix_ms:
            mine = (self.since_unix_ms, self._session)
            return (other.since_unix_ms, other.session) < mine
        if self.since_unix_ms or other.since_unix_ms:
            return other.since_unix_ms > 0
        return other.session < self._session


class Doppelganger:
    """Made and run by the daemon; whoever signs events awaits `Services.alone` first."""

    def __init__(
        self,
        hello: Hello,
        doubles: Doubles,
        waits: Waits,
        problems: Problems,
        me: bytes,
        alone: trio.Event,
    ) -> None:
        """alone: set by `make_sure`."""
        self._hello = hello
        self._doubles = doubles
        self._waits = waits
        self._problems = problems
        self._me = me
        self._alone = alone
        self._found = trio.Event()
        hello.on_other_session(self._saw)

    def _saw(self, record: NodeRecord) -> None:
        if self._doubles.saw(record, trio.current_time()):
            self._hello.announce()  # names it
        outcome = self._doubles.outcome(trio.current_time())
        if outcome == "give way":
            self._found.set()
        elif outcome == "other gives way" and self._alone.is_set():
            what = f"another machine runs with this node's key ({peerid.short(self._me)})"
            fix = "it has to stop: one key, one machine (primed init makes another)"
            self._problems.raise_("doppelganger", what, fix)

    async def watch(self) -> None:
        """Raises UserError when this session has to give way; else runs until cancelled."""
        while not self._found.is_set():
            with trio.move_on_after(ASK_AGAIN_S):
                await self._found.wait()
            if self._doubles.outcome(trio.current_time()) == "clear":
                self._problems.clear("doppelganger")
        living = self._doubles.living
        assert living is not None
        where = ", ".join(living.addresses[:2]) or "an unknown address"
        text = (
            f"the key {peerid.to_text(self._me)} is in use by another daemon, at {where}: two with "
            "one key would be punished as fraud, so this one has signed nothing and stops"
            if not self._alone.is_set()
            else f"the key {peerid.to_text(self._me)} is in use by an earlier daemon, at {where}"
        )
        hint = "stop the other one first, or give this one its own key: another --data-dir"
        raise UserError(text, hint, exit_code=EXIT_DUPLICATE)

    async def make_sure(
        self,
        connected: Peers,
        meet_nearest: Callable[[], Awaitable[None]],
        is_alone: Callable[[], bool],
        wall_clock: Callable[[], int],
    ) -> None:
        """Returns when no other session of our key can be seen; from then on we act."""
        began, answered, has_met = trio.current_time(), set[bytes](), False
        within_s = limits.DHT_CALL_S + PEERS_S + LEASE_S
        with self._waits.named("one key, one machine", self._describe, within_s):
            while not self._is_sure(began, answered, is_alone()):
                if connected() and not has_met:
                    await meet_nearest()
                    has_met = True
                peers = connected()
                fresh = [peer for peer in peers if peer not in answered]
                await self._ask({*fresh, *peers[:ASKED_AGAIN]}, answered)
                await trio.sleep(ASK_AGAIN_S if answered else ASK_AGAIN_S / 4)
        self._doubles.since_unix_ms = wall_clock()
        self._alone.set()
        self._hello.announce()
        _log.info("alone with this key", peers_asked=len(answered))

    async def _ask(self, peers: Collection[bytes], answered: set[bytes]) -> None:
        async def ask(peer: bytes) -> None:
            with suppress(RemoteError):
                await self._hello.greet(peer)
                answered.add(peer)

        with trio.move_on_after(PEERS_S):
            async with trio.open_nursery() as nursery:
                for peer in sorted(peers):
                    nursery.start_soon(ask, peer)

    def _is_sure(self, began: float, answered: set[bytes], is_alone: bool) -> bool:
        now = trio.current_time()
        if self._doubles.outcome(now) != "clear":
            return False
        return bool(answered) or now - began > (ALONE_S if is_alone else PEERS_S)

    def _describe(self) -> str:
        left_s = self._doubles.left_s(trio.current_time())
        if left_s:
            return f"another daemon had this key lately; ended if not heard of for {left_s:.0f} s"
        return "peers that could know another daemon with this key"
