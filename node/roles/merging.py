"""Merging: states a delta from the newest snapshot to the newest version, for those who join later;
with several learners also one from version 0, which all lineages share, for those who change over.

A step's own delta leads one step on; a node that joins at step 11 after a snapshot at step 0 would
fetch eleven. The merged delta is composed from the two weights files and is a few times as large as
one step's. It is made after the version was published, and skipped for versions that are not the
newest any more.
"""

from __future__ import annotations

from pathlib import Path

import structlog
import trio

from primed.node.participation import Participation
from primed.node.policies import PolicyUnavailable
from primed.node.supervisor import Child, ChildFailed
from primed.training.messages import Merge, Merged
from primed.verify.statements import Manifest

LOOK_AGAIN_S = 3600.0
MERGE_S = 600.0
RETRY_S = 2.0
WORTH_SHARE = 0.25  # of a snapshot: a larger delta from version 0 is not stated any more
_log = structlog.get_logger("primed.learner")


class Merging:
    def __init__(self, part: Participation, child: Child, folder: Path) -> None:
        self._part = part
        self._child = child
        self._folder = folder
        self._outgrown: set[bytes] = set()  # starts from which a snapshot is the better way

    async def run(self) -> None:
        while True:
            wanted = await self._part.changes.until(
                self._missing,
                "a version to merge",
                "the second step after a snapshot",
                LOOK_AGAIN_S,
            )
            if wanted is None:
                continue
            try:
                await self._merge(*wanted)
            except (ChildFailed, PolicyUnavailable) as error:
                _log.warning("no merged delta", reason=str(error))
                await trio.sleep(RETRY_S)

    def _missing(self) -> tuple[bytes, bytes] | None:
        """(version to start from, newest version) if a delta between them is missing."""
        return self._part.lineages.unmerged(self._part.me, self._outgrown)

    def _is_outgrown(self, made: Merged) -> bool:
        """Whether so much has changed since version 0 that a snapshot is not much larger."""
        lineages = self._part.lineages
        whole = lineages.manifests[lineages.base].snapshot if lineages.base else None
        return whole is not None and made.delta_bytes > WORTH_SHARE * whole.size_bytes

    async def _merge(self, base: bytes, version: bytes) -> None:
        part, newest = self._part, self._part.lineages.manifests[version]
        out = self._folder / f"merged-{newest.step}"
        merge = Merge(
            id=0,
            base_path=str(await part.policies.ensure(base, self._child)),
            new_path=str(await part.policies.ensure(version, self._child)),
            out_path=str(out),
        )
        made = await self._child.ask(merge, Merged, timeout_s=MERGE_S, name="a merged delta")
        if base != part.lineages.newest_snapshot(part.me) and self._is_outgrown(made):
            self._outgrown.add(base)
            out.unlink(missing_ok=True)
            return
        async with part.unnamed:
            merged = Manifest(
                learner=part.me,
                kind="merged",
                step=newest.step,
                parents=(base, version),
                weights=newest.weights,
                delta=await part.shardcast.add(out),
                snapshot=None,
                consumed=(),
            )
            await part.events.emit(merged)
        out.unlink(missing_ok=True)
