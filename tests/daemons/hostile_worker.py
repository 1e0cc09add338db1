"""A worker that means harm: rightly signed statements about batches whose bytes are wrong."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from primed.node.demo.swarm import LISTEN
from primed.node.store import Store
from primed.p2p import limits
from primed.p2p.host import Libp2pNetwork
from primed.p2p.identity import Identity
from primed.protocols.by_run import RunServers
from primed.protocols.events import EventLog
from primed.protocols.rollouts import Rollouts
from primed.protocols.topics import events_topic
from primed.verify.digests import content_digest
from primed.verify.ledger import State
from primed.verify.statements import Committed, Joined

CONNECT_S = 15.0
ROOT = bytes(32)  # nothing hashes to it


class HostileWorker:
    def __init__(self, run: bytes, folder: Path) -> None:
        identity = Identity.generate()
        self.peer = identity.peer
        self.network = Libp2pNetwork(identity, profile=limits.HOME.on_one_machine())
        self._run = run
        self._folder = folder
        self._store = Store(folder / "hostile.db")
        servers, rng = RunServers(self.network), random.Random(1)
        me, sign = identity.peer, identity.sign
        self._log = EventLog(servers, self._store.events, run, me, sign, _now_ms, rng)
        self._rollouts = Rollouts(servers, run, me, sign, folder / "batches", lambda *_: "")

    @asynccontextmanager
    async def joined(self, addresses: Sequence[str]) -> AsyncIterator[None]:
        """Connected to all daemons, and a worker of the run by its own word."""
        topic = events_topic(self._run)
        try:
            async with self.network.running([LISTEN], []), trio.open_nursery() as nursery:
                nursery.start_soon(self._log.run)
                for address in addresses:
                    await self.network.connect(address)
                with trio.fail_after(CONNECT_S):
                    while sum(topic in i.topics for i in self.network.peers()) < len(addresses):
                        await trio.sleep(0.05)
                await self._log.emit(Joined(roles=("worker",), profile="torch"))
                yield
                nursery.cancel_scope.cancel()
        finally:
            self._store.close()

    async def commit(
        self, counter: int, data: bytes, *, holder: bytes, learner: bytes, seen: bytes, cut: State
    ) -> bytes:
        """Push these bytes as a batch and commit to them; names the commitment."""
        path = self._folder / f"{counter}.batch"
        path.write_bytes(data)
        batch = content_digest(data)
        receipt = await self._rollouts.push(holder, path, counter=counter, batch=batch, root=ROOT)
        entry = await self._log.emit(
            Committed(
                learner=learner,
                counter=counter,
                version=seen,
                seen=seen,
                cut=cut.number,
                cut_root=cut.root,
                batch=batch,
                size_bytes=len(data),
                root=ROOT,
                rollouts=8,
                chunks=8,
                tokens=40,
                receipts=(receipt,),
            )
        )
        return entry.digest


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
