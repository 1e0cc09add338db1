"""Cache: a relay's part in a run. Keeps the newest payloads and serves them; holds batches.

Holding batches is `protocols.rollouts`' work and needs no task; this follows the lineages and pulls
each version's delta, and the snapshots, so that they outlive the learner's connection.
"""

from __future__ import annotations

import trio

from primed.node.participation import Participation
from primed.node.views import RoleView
from primed.verify.runspec import Role
from primed.verify.statements import Payload

PAYLOAD_S = 600.0


class Cache:
    name: Role = "relay"

    def __init__(self, part: Participation) -> None:
        self._part = part
        self._held: set[bytes] = set()

    def view(self) -> RoleView:
        reason = f"serves {len(self._held)} payloads"
        return RoleView(
            role=self.name, run=self._part.run.run_id.hex(), state="running", reason=reason
        )

    async def run(self) -> None:
        while True:
            wanted = await self._part.changes.until(
                self._missing, "the next policy version", "the learners' manifests", 3600.0
            )
            for payload, learner in wanted or []:
                await self._pull(payload, learner)

    def _missing(self) -> list[tuple[Payload, bytes]] | None:
        """Payloads of retained versions that are not here, newest first."""
        return [
            (part, manifest.learner)
            for manifest in self._part.retained()
            for part in manifest.payloads()
            if part.root not in self._held
        ] or None

    async def _pull(self, payload: Payload, learner: bytes) -> None:
        self._part.shardcast.expect(payload, learner)
        name = f"payload {payload.root.hex()[:8]}"
        describe = self._part.shardcast.describe
        with self._part.waits.named(name, lambda: describe(payload), PAYLOAD_S):
            with trio.move_on_after(PAYLOAD_S):
                await self._part.shardcast.wait(payload)
        self._held.add(payload.root)
