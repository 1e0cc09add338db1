"""What learner and verifier both do with a committed batch: get its file, and describe it to a child."""

from __future__ import annotations

from pathlib import Path

from primed.node.participation import Participation
from primed.p2p import peerid
from primed.p2p.errors import RemoteError
from primed.protocols.disk import on_disk
from primed.training.messages import Inspect
from primed.verify.cases import Case


async def fetch_batch(part: Participation, case: Case) -> Path:
    """The batch's file: ours if this node holds it, else from its holders in the order of their
    receipts. Raises RemoteError that says what each holder answered."""
    committed = case.body
    held = part.rollouts.path(committed.batch)
    if held is not None:
        return held
    answers = []
    for receipt in committed.receipts:
        if receipt.holder == part.me:
            continue
        try:
            return await part.rollouts.fetch(receipt.holder, committed.batch, committed.size_bytes)
        except RemoteError as error:
            answers.append(f"{peerid.short(receipt.holder)}: {error.reason}")
    raise RemoteError("no holder gave the batch: " + "; ".join(answers))


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
