"""Cache: a relay's part in a run. Keeps the newest payloads and serves them; holds batches.

Holding batches is `protocols.rollouts`' work and needs no task; this follows the lineages and pulls
each version's delta, and the snapshots, so that they outlive the learner's connection.
"""

from __future__ import annotations

import structlog
import trio

from primed.node.participation import Participation
from primed.node.views import RoleView
from primed.p2p.errors import RemoteError
from primed.verify.runspec import Role
from primed.verify.statements import Payload

PAYLOAD_S = 600.0
_log = structlog.get_logger("primed.cache")


class Cache:
    name: Role = "relay"

    def __init__(self, part: Participation) -> None:
        self._part = part
        self._asked: set[bytes] = set()  # payload roots, on their way or done with
        self._held = 0

    def view(self) -> RoleView:
        reason = f"pulled {self._held} payloads to serve"
        return RoleView(
            role=self.name, run=self._part.run.run_id.hex(), state="running", reason=reason
        )

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                wanted = await self._part.changes.until(
                    self._missing, "the next policy version", "the learners' manifests", 3600.0
                )
                for payload, learner in wanted or []:
                    self._asked.add(payload.root)
                    nursery.start_soon(self._pull, payload, learner)

    def _missing(self) -> list[tuple[Payload, bytes]] | None:
        """Payloads of retained versions that were not asked for yet, newest first."""
        return [
            (part, manifest.learner)
            for manifest in self._part.retained()
            for part in manifest.payloads()
            if part.root not in self._asked
        ] or None

    async def _pull(self, payload: Payload, learner: bytes) -> None:
        name = f"payload {payload.root.hex()[:8]}"
        describe = self._part.shardcast.describe
        with self._part.waits.named(name, lambda: describe(payload), PAYLOAD_S):
            with trio.move_on_after(PAYLOAD_S):
                try:
                    self._part.shardcast.expect(payload, learner)
                    await self._part.shardcast.wait(payload)
                    self._held += 1
                    return
                except RemoteError as error:  # refused, or dropped since newer ones came
                    _log.info("payload not kept", payload=name, reason=error.reason)
                    return
        self._asked.discard(payload.root)  # nobody had it: ask again
