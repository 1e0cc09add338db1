"""The learner's own checks 1 to 5 of each batch of its lineage, and what it refuses.

A batch that fails, names wrong versions, cannot be had or has become stale is refused with a signed
reason as soon as that is known; a copy, when it becomes usable after another that says the same. The
rest may be trained on. Each has its own task, so that holders who do not give one batch hold up no
other.
"""

from __future__ import annotations

from pathlib import Path

import structlog
import trio

from primed.node.participation import Participation
from primed.node.roles.batches import copied_from, inspection_of
from primed.node.roles.fetching import Fetches, Patience
from primed.node.supervisor import Child, ChildFailed
from primed.p2p.errors import RemoteError
from primed.training.messages import Inspected
from primed.verify.cases import OVER, Case
from primed.verify.statements import Rejected

INSPECT_S = 120.0
FETCH_S = 30.0  # to get a batch from its holders, and for manifests that it names
RETRY_S = 0.5
AT_ONCE = 8  # batches at the child; those that are being fetched do not count
_log = structlog.get_logger("primed.inspections")


class Inspections:
    def __init__(self, part: Participation, child: Child) -> None:
        self._part = part
        self._child = child
        self._waiting: list[Case] = []
        self._open: set[bytes] = set()  # commitments waiting or being inspected
        self._at_once = trio.CapacityLimiter(AT_ONCE)
        self._fetches = Fetches(part.me, part.rollouts)
        self._sound: dict[bytes, list[bytes]] = {}  # not usable yet: commitment -> fingerprints
        self._passed: dict[bytes, Path] = {}  # commitment -> the batch's file
        self._refused: set[bytes] = set()
        part.on_case(self._note)

    def _note(self, case: Case) -> None:
        if not _is_wanted(case):  # its file may be deleted
            self._passed.pop(case.commitment, None)
            self._sound.pop(case.commitment, None)
        elif case.body.learner == self._part.me and self._has_work(case):
            self._open.add(case.commitment)
            self._waiting.append(case)

    def _has_work(self, case: Case) -> bool:
        commitment = case.commitment
        if any(commitment in each for each in (self._open, self._passed, self._refused)):
            return False
        return case.is_usable or commitment not in self._sound

    def passed(self, commitment: bytes) -> Path | None:
        """The file of a usable batch that passed, None before."""
        return self._passed.get(commitment)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                await self._part.changes.until(
                    lambda: self._waiting or None,
                    "batches to inspect",
                    "workers' commitments",
                    3600.0,
                )
                while self._waiting:
                    nursery.start_soon(self._inspect, self._waiting.pop(0))

    async def refuse_stale(self) -> None:
        """Refuse what has become older than the run allows."""
        part = self._part
        bound = part.run.spec.parameters.max_staleness
        for case in part.cases.usable(part.me):
            age = part.lineages.staleness(part.me, case.body.version)
            if age is not None and age >= bound + 1:
                await self.refuse(case, "stale", f"{age} steps old, the run allows {bound}")

    async def refuse(self, case: Case, reason: str, detail: str) -> None:
        if case.commitment in self._refused:
            return
        self._refused.add(case.commitment)
        self._passed.pop(case.commitment, None)
        self._sound.pop(case.commitment, None)
        _log.info("batch refused", counter=case.body.counter, reason=reason, detail=detail)
        await self._part.events.emit(
            Rejected(commitment=case.commitment, reason=reason, evidence=detail[:200])
        )

    async def _inspect(self, case: Case) -> None:
        """Until it passed, was refused, or is not wanted any more."""
        patience = Patience(FETCH_S)
        try:
            while _is_wanted(case):
                missing = await self._try(case, patience)
                if missing is None:
                    return
                if missing:
                    patience.start()
                    if patience.is_over:
                        return await self.refuse(case, "unavailable", missing)
                await trio.sleep(RETRY_S)
        finally:
            self._open.discard(case.commitment)

    async def _try(self, case: Case, patience: Patience) -> str | None:
        """None when the batch has passed or was refused, else what others did not give: "" when it
        was this node's own child that failed, for which no worker answers."""
        fault = self._part.version_fault(case)
        if fault is None:
            return "a manifest that the commitment names has not arrived"
        try:
            if fault:
                await self.refuse(case, "version", fault)
            else:
                await self._inspect_file(case, await self._fetches.fetch(case, patience))
        except RemoteError as error:
            return error.reason
        except ChildFailed as error:
            _log.info("not inspected", counter=case.body.counter, reason=str(error))
            return ""
        return None

    async def _inspect_file(self, case: Case, path: Path) -> None:
        if case.commitment not in self._sound:
            async with self._at_once:
                inspected = await self._child.ask(
                    inspection_of(case, path),
                    Inspected,
                    timeout_s=INSPECT_S,
                    name=f"inspection of batch {case.body.counter}",
                )
            if inspected.failed:
                return await self.refuse(case, inspected.failed, inspected.detail)
            if not _is_wanted(case):
                return  # over meanwhile: begun again should it be reopened, since its file may go
            self._sound[case.commitment] = inspected.fingerprints
        if case.is_usable:
            await self._pass(case, path)

    async def _pass(self, case: Case, path: Path) -> None:
        """Unless it copies another that became usable before. Not earlier: these checks run no
        model, so that the copy of a thief who was quicker might have passed them first."""
        copied = await copied_from(self._part, case, self._sound[case.commitment])
        if copied is not None:
            detail = f"same completions as commitment {copied.hex()[:16]}"
            return await self.refuse(case, "duplicate", detail)
        if not _is_wanted(case):
            return
        if self._part.rollouts.path(case.body.batch) is None:
            raise RemoteError("the batch was deleted while it was over, and was reopened")
        self._sound.pop(case.commitment, None)
        self._passed[case.commitment] = path
        self._part.changes.notify()


def _is_wanted(case: Case) -> bool:
    return case.state not in OVER and not case.used_by
