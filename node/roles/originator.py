"""Originator: announces version 0 of its run, and closes epochs by proposing cuts.

While it is offline, work goes on and earnings stay pending; when it is back, the next cut takes in
all that happened meanwhile.
"""

from __future__ import annotations

import trio

from primed.node.participation import Participation
from primed.node.views import RoleView
from primed.verify.runspec import Role
from primed.verify.statements import Manifest


class Originator:
    name: Role = "originator"

    def __init__(self, part: Participation) -> None:
        self._part = part

    def view(self) -> RoleView:
        number, _ = self._part.ledger.newest_cut()
        epoch_s = self._part.run.spec.parameters.epoch_s
        reason = f"cut {number} is the newest; a next one is looked at every {epoch_s:.0f} s"
        return RoleView(
            role=self.name, run=self._part.run.run_id.hex(), state="running", reason=reason
        )

    async def run(self) -> None:
        await self._announce_base()
        while True:
            await trio.sleep(self._part.run.spec.parameters.epoch_s)
            cut = await self._part.ledger.propose()
            if cut is not None:
                await self._part.events.emit(cut)

    async def _announce_base(self) -> None:
        """Version 0: the base checkpoint that `publish` put into the node's store."""
        part = self._part
        if part.lineages.base is not None:
            return
        async with part.unnamed:
            manifest = Manifest(
                learner=part.me,
                kind="anchor",
                step=0,
                parents=(),
                weights=part.run.spec.model.weights,
                delta=None,
                snapshot=await part.shardcast.add(part.folder / "base.safetensors"),
                consumed=(),
            )
            await part.events.emit(manifest)
