"""Hello: greets every connected peer, keeps their records, and serves and fetches RunSpecs.

One task goes over the connected peers and greets those that are due: new ones at once, the others
now and then, failed ones after a pause. Called by the daemon, which runs `run()` supervised.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

import trio
from msgspec import structs

from primed.p2p.errors import MID, RemoteError
from primed.p2p.network import Network, PeerId
from primed.protocols.client import Client
from primed.protocols.framing import decode, encode
from primed.protocols.hello.messages import (
    FoundRun,
    GetRun,
    Greet,
    Greeted,
    ListRuns,
    NodeRecord,
    RunList,
    SignedRecord,
    requests,
    responses,
    signed_records,
)
from primed.protocols.hello.records import is_news, open_record, sign_record
from primed.protocols.hello.sessions import Sessions
from primed.protocols.limits import (
    GREET_AGAIN_S,
    GREET_RETRY_S,
    RECORDS_KEPT,
    RUNS_LISTED,
)
from primed.protocols.rpc import Attachment, Refused
from primed.protocols.server import Reply, Server
from primed.verify.runspec import Run, SignedRun, decode_run
from primed.verify.signing import Signer

PROTOCOL = "/primed/hello/1"
GREETINGS_AT_ONCE = 8


class Hello:
    """records: the newest valid record of each peer that was met, at most RECORDS_KEPT; after a
    restart those that the network has kept, as long as they are valid.
    refusals: why the last greeting of a connected peer failed, by peer."""

    def __init__(
        self,
        network: Network,
        build_record: Callable[[], NodeRecord],
        sign: Signer,
        runs: Callable[[], Mapping[bytes, SignedRun]],
        wall_clock: Callable[[], int],
    ) -> None:
        """build_record: our own record as of now. runs: the RunSpecs we know, by run id.
        wall_clock: unix milliseconds."""
        self.records: OrderedDict[PeerId, NodeRecord] = OrderedDict()
        self.refusals: dict[PeerId, str] = {}
        self._sessions = Sessions()
        self._other_callbacks: list[Callable[[NodeRecord], None]] = []
        self._network = network
        self._build_record = build_record
        self._sign = sign
        self._runs = runs
        self._wall_clock = wall_clock
        self._callbacks: list[Callable[[NodeRecord], None]] = []
        self._due: dict[PeerId, float] = {}  # connected peer -> when to greet it next
        self._wake = trio.Event()
        self._client = Client(network, PROTOCOL, responses)
        Server(network, PROTOCOL, requests, self._answer)
        network.on_peer(self._on_peer)

    def on_record(self, callback: Callable[[NodeRecord], None]) -> None:
        """Call it with every record that is new or newer than the one known."""
        self._callbacks.append(callback)

    def on_other_session(self, callback: Callable[[NodeRecord], None]) -> None:
        """Call it with each record of our own key that a peer shows us as another session's and that
        has not expired. The peer may have kept it."""
        self._other_callbacks.append(callback)

    def announce(self) -> None:
        """Our record has changed: greet all connected peers again now."""
        for peer in self._due:
            self._due[peer] = 0.0
        self._wake.set()

    async def run(self) -> None:
        """Greets until cancelled."""
        self._recall()
        for info in self._network.peers():
            self._due.setdefault(info.peer, 0.0)
        async with trio.open_nursery() as nursery:
            at_once = trio.CapacityLimiter(GREETINGS_AT_ONCE)
            while True:
                now = trio.current_time()
                for peer in [peer for peer, at in self._due.items() if at <= now]:
                    self._due[peer] = now + GREET_AGAIN_S
                    nursery.start_soon(self._greet_one, peer, at_once)
                await self._sleep()

    async def greet(self, peer: PeerId) -> NodeRecord:
        """Exchange records. Raises RemoteError, already charged."""
        record = sign_record(self._build_record(), self._sign)
        response = await self._client.request(peer, Greet(record))
        if not isinstance(response, Greeted):
            raise self._charged(RemoteError("wrong answer", peer=peer, penalty=MID))
        try:
            self._hear_of_other(peer, response.other)
            return self._keep(open_record(response.record, peer), response.record)
        except RemoteError as error:
            raise self._charged(error) from None

    def _hear_of_other(self, peer: PeerId, signed: SignedRecord | None) -> None:
        """Only our own key can have signed it; what has expired says nothing."""
        if signed is None:
            return
        try:
            record = open_record(signed, self._network.peer)
        except RemoteError as error:
            raise RemoteError(f"about us: {error.reason}", peer=peer, penalty=MID) from None
        if not is_news(None, record, self._wall_clock()):
            return
        for callback in self._other_callbacks:
            callback(record)

    async def list_runs(self, peer: PeerId) -> tuple[bytes, ...]:
        """Ids of the runs the peer knows. Raises RemoteError."""
        response = await self._client.request(peer, ListRuns())
        if not isinstance(response, RunList):
            raise self._charged(RemoteError("wrong answer", peer=peer, penalty=MID))
        return response.runs

    async def get_run(self, peer: PeerId, run_id: bytes) -> Run:
        """The verified RunSpec with this id. Raises Refused (not_found) or RemoteError."""
        response = await self._client.request(peer, GetRun(run_id))
        if not isinstance(response, FoundRun):
            raise self._charged(RemoteError("wrong answer", peer=peer, penalty=MID))
        try:
            run = decode_run(response.run)
        except ValueError as error:
            raise self._charged(RemoteError(str(error), peer=peer, penalty=MID)) from error
        if run.run_id != run_id:
            raise self._charged(RemoteError("another run than asked", peer=peer, penalty=MID))
        return run

    async def _greet_one(self, peer: PeerId, at_once: trio.CapacityLimiter) -> None:
        async with at_once:
            try:
                await self.greet(peer)
                self.refusals.pop(peer, None)
            except RemoteError as error:
                if peer in self._due:
                    self.refusals[peer] = error.reason
                    self._due[peer] = trio.current_time() + GREET_RETRY_S

    async def _sleep(self) -> None:
        """Until a peer connects or the next one is due."""
        with trio.move_on_at(min(self._due.values(), default=trio.current_time() + GREET_AGAIN_S)):
            await self._wake.wait()
        self._wake = trio.Event()

    async def _answer(
        self, peer: PeerId, message: Greet | ListRuns | GetRun, _: Attachment
    ) -> Reply:
        if isinstance(message, Greet):
            record = open_record(message.record, peer)
            self._keep(record, message.record)
            other = self._sessions.other(peer, record.session, trio.current_time())
            return Reply(Greeted(sign_record(self._build_record(), self._sign), other))
        if isinstance(message, ListRuns):
            return Reply(RunList(tuple(self._runs())[:RUNS_LISTED]))
        signed = self._runs().get(message.run)
        if signed is None:
            raise Refused("not_found", "no such run here")
        return Reply(FoundRun(signed))

    def _keep(self, record: NodeRecord, signed: SignedRecord) -> NodeRecord:
        """The newest record of this peer, after taking this one into account. At the first record
        of a second session the peer is greeted at once: who answers is alive."""
        if self._sessions.observe(record, signed, trio.current_time()) and record.peer in self._due:
            self._due[record.peer] = 0.0
            self._wake.set()
        known = self.records.get(record.peer)
        if not is_news(known, record, self._wall_clock()):
            if known is None:
                raise RemoteError("record has expired", peer=record.peer)
            return known
        self.records[record.peer] = record
        self.records.move_to_end(record.peer)
        self._evict()
        self._network.remember(record.peer, record.addresses, encode(signed))
        for callback in self._callbacks:
            callback(record)
        return record

    def _recall(self) -> None:
        """What peers signed in an earlier life of ours, until they say something new."""
        for peer, kept in list(self._network.records().items())[:RECORDS_KEPT]:
            try:
                record = open_record(decode(signed_records, kept, peer), peer)
            except RemoteError:  # of another version, say
                continue
            if peer not in self.records and is_news(None, record, self._wall_clock()):
                self.records[peer] = structs.replace(record, sequence=0)

    def _evict(self) -> None:
        """Over the limit the oldest goes, a peer that is not connected first."""
        if len(self.records) > RECORDS_KEPT:
            away = (peer for peer in self.records if peer not in self._due)
            del self.records[next(away, next(iter(self.records)))]

    def _on_peer(self, peer: PeerId, connected: bool) -> None:
        if connected:
            self._due[peer] = 0.0
            self._wake.set()
        else:
            self._due.pop(peer, None)
            self.refusals.pop(peer, None)

    def _charged(self, error: RemoteError) -> RemoteError:
        self._network.penalise(error.peer, error.penalty, error.reason)
        return error
