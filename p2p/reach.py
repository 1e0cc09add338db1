"""Reachability: whether others can dial us, measured and not guessed. Protocol /primed/reach/1.

A peer is asked to dial us back: two bytes, the port; it answers one byte, what came of it, and the
IP it sees us at. It dials that IP only, so it cannot be sent anywhere else, and rarely. The
dial is a TCP connection and a Noise handshake; both sides' keys are in it and it is fresh, so no nonce is
needed: we see with our own eyes that this peer came in just now, and believe its word only about
the IP. Two peers must agree, of two networks if we know such.

`Reach` measures and keeps the result; `Answers` dials others back.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

import trio

from primed.p2p import addresses, limits, peerid
from primed.p2p.buckets import TokenBucket
from primed.p2p.errors import MID, RemoteError
from primed.p2p.network import Stream
from primed.p2p.reachability import Kind, Reachability

PROTOCOL = "/primed/reach/1"
_AGREE = 2  # peers that say the same
_ASKED_MOST = 5
MEASURE_S = _ASKED_MOST * limits.REACH_ASK_S


class Outcome(Enum):
    """The first byte of an answer."""

    REACHED = b"r"
    UNREACHED = b"u"
    BUSY = b"b"


@dataclass(frozen=True)
class Answer:
    peer: bytes
    outcome: Outcome
    ip: str


class Answers:
    """The answering side. `ip_of`: where a connected peer is, None if over a relay or gone;
    `knock`: dial (peer, IP, port) up to the end of the handshake, raising RemoteError."""

    def __init__(
        self,
        ip_of: Callable[[bytes], str | None],
        knock: Callable[[bytes, str, int], Awaitable[None]],
    ) -> None:
        self._ip_of = ip_of
        self._knock = knock
        self._everybody: TokenBucket | None = None
        self._by_ip: OrderedDict[str, TokenBucket] = OrderedDict()
        self._at_once = trio.CapacityLimiter(limits.REACH_AT_ONCE)

    async def answer(self, stream: Stream) -> None:
        port = int.from_bytes(await _read(stream, 2), "big")
        ip = self._ip_of(stream.peer)
        if ip is None or not port:
            raise RemoteError("asks to be dialled back nowhere", peer=stream.peer, penalty=MID)
        outcome = await self._try(stream.peer, ip, port)
        await stream.write_all(outcome.value + ip.encode())

    async def _try(self, peer: bytes, ip: str, port: int) -> Outcome:
        if not self._may(ip) or not self._at_once.available_tokens:
            return Outcome.BUSY
        try:
            async with self._at_once:
                await self._knock(peer, ip, port)
        except RemoteError:
            return Outcome.UNREACHED
        return Outcome.REACHED

    def _may(self, ip: str) -> bool:
        now_s = trio.current_time()
        bucket = self._by_ip.pop(ip, None)
        if bucket is None:
            bucket = TokenBucket(limits.REACH_PER_IP_BURST, limits.REACH_PER_IP_PER_S, now_s)
        self._by_ip[ip] = bucket
        if len(self._by_ip) > limits.PEERS_KNOWN:
            self._by_ip.popitem(last=False)
        if self._everybody is None:
            self._everybody = TokenBucket(limits.REACH_BURST, limits.REACH_PER_S, now_s)
        return bucket.take(now_s) and self._everybody.take(now_s)


class Reach:
    """The measuring side. `ports`: those we listen at; `witnesses`: connected peers worth asking,
    best first; `open_stream` as `Network`'s."""

    def __init__(
        self,
        ports: Callable[[], Sequence[int]],
        witnesses: Callable[[], Sequence[bytes]],
        open_stream: Callable[[bytes, str], Awaitable[Stream]],
    ) -> None:
        self.result = Reachability(Kind.UNKNOWN, "nobody has been asked yet")
        self._ports = ports
        self._witnesses = witnesses
        self._open_stream = open_stream
        self._came: set[bytes] | None = None  # who came in while somebody is being asked

    def on_secured(self, peer: bytes) -> None:
        """A new inbound connection has proven to be this peer's."""
        if self._came is not None:
            self._came.add(peer)

    def forget(self, evidence: str) -> None:
        """What was measured holds no longer."""
        self.result = Reachability(Kind.UNKNOWN, evidence)

    async def measure(self, port: int | None = None) -> Reachability:
        """Ask until two agree; `result` is kept if nobody can be asked. port: instead of the one
        we listen at (that of a mapping)."""
        ports = [port] if port else self._ports()
        if not ports:
            self.result = Reachability(Kind.OUTBOUND, "it listens at no address")
            return self.result
        answers: list[Answer] = []
        for peer in self._witnesses()[:_ASKED_MOST]:
            if (answer := await self.ask(peer, ports[0])) is not None:
                answers.append(answer)
                if (verdict := judge(answers, ports[0])) is not None:
                    self.result = verdict
                    break
        return self.result

    async def ask(self, peer: bytes, port: int) -> Answer | None:
        """One peer's word, corrected by what we saw; None if it could not tell."""
        self._came = set()
        try:
            with trio.fail_after(limits.REACH_ASK_S):
                stream = await self._open_stream(peer, PROTOCOL)
                await stream.write_all(port.to_bytes(2, "big"))
                told = await _read_to_end(stream, 64)
            answer = Answer(peer, Outcome(told[:1]), str(ipaddress.ip_address(told[1:].decode())))
            claims = answer.outcome is Outcome.REACHED
            if answer.outcome is Outcome.BUSY or (claims and peer not in self._came):
                return None  # it says so, but nobody came
            return answer
        except (RemoteError, ValueError, trio.TooSlowError):
            return None
        finally:
            self._came = None


def judge(answers: Sequence[Answer], port: int) -> Reachability | None:
    """What two peers agree on. Pure. None: ask one more."""
    reached = [a for a in answers if a.outcome is Outcome.REACHED]
    by_ip = [[a for a in reached if a.ip == ip] for ip in {a.ip for a in reached}]
    for agreed in by_ip:
        if len(agreed) >= _AGREE:
            ip = agreed[0].ip
            kind = Kind.PUBLIC if ipaddress.ip_address(ip).is_global else Kind.LOCAL
            address = addresses.at(ip, port)
            return Reachability(kind, f"dialled back by {_names(agreed)} at {address}", address)
    failed = [a for a in answers if a.outcome is Outcome.UNREACHED]
    if len(failed) >= _AGREE:
        where = addresses.at(failed[0].ip, port)
        evidence = f"{_names(failed)} could not dial back at {where}"
        return Reachability(Kind.OUTBOUND, evidence)
    return None


def _names(answers: Sequence[Answer]) -> str:
    return " and ".join(peerid.short(answer.peer) for answer in answers)


async def _read(stream: Stream, count: int) -> bytes:
    """Exactly so many bytes, soon. Raises RemoteError."""
    data = b""
    try:
        with trio.fail_after(limits.SILENT_S):
            while len(data) < count:
                if not (more := await stream.read_some(count - len(data))):
                    raise RemoteError("ended too early", peer=stream.peer, penalty=MID)
                data += more
    except trio.TooSlowError:
        raise RemoteError("too slow", peer=stream.peer) from None
    return data


async def _read_to_end(stream: Stream, most: int) -> bytes:
    data = b""
    with suppress(RemoteError):
        while len(data) < most and (more := await stream.read_some(most - len(data))):
            data += more
    return data
