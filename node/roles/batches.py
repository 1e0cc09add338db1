"""What learner and verifier both do with a committed batch that is here: describe it to a child, and
look for copies."""

from __future__ import annotations

from pathlib import Path

from primed.node.participation import Participation
from primed.protocols.disk import on_disk
from primed.training.messages import Inspect
from primed.verify.cases import Case


def inspection_of(case: Case, path: Path) -> Inspect:
    """Checks 1 to 5 of the batch against what its commitment says."""
    committed = case.body
    return Inspect(
        id=0,
        batch_path=str(path),
        worker=case.worker,
        counter=committed.counter,
        version=committed.version,
        root=committed.root,
        rollouts=committed.rollouts,
        chunks=committed.chunks,
        tokens=committed.tokens,
    )


async def copied_from(part: Participation, case: Case, fingerprints: list[bytes]) -> bytes | None:
    """The commitment that had one of these fingerprints first, if another did (check 5)."""
    owners = await on_disk(
        part.store.fingerprints.claim, part.run.run_id, fingerprints, case.commitment
    )
    return next(iter(owners.values()), None)
