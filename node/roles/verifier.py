"""Verifier: draws itself for commitments, checks them with its own prefill, states verdicts.

The draw is a VRF over what the worker could not choose, so nobody knows in advance whom a batch
meets. A claim is stated before the work and found again in the node's own events after a crash:
every open claim of ours without a verdict is work to do. Each has its own task, so that a batch that
nobody gives holds up no other: one after the other, verifiers that fell behind never caught up,
because holders drop what is over.
"""

from __future__ import annotations

import msgspec
import structlog
import trio

from primed.node.participation import Participation
from primed.node.policies import PolicyUnavailable
from primed.node.roles.batches import copied_from, inspection_of
from primed.node.roles.fetching import Fetches, Patience
from primed.node.supervisor import Child, ChildFailed
from primed.node.views import RoleView
from primed.p2p.errors import RemoteError
from primed.protocols.disk import on_disk
from primed.protocols.limits import EVIDENCE_DETAIL_CHARS
from primed.protocols.verdicts import Evidence
from primed.training.messages import Check, Checked
from primed.verify import draw, signing, vrf
from primed.verify.cases import Case
from primed.verify.digests import digest
from primed.verify.runspec import Role
from primed.verify.statements import Verdict

CHECK_S = 600.0
RETRY_S = 0.5
AT_ONCE = 8  # batches at the child; those that are being fetched do not count
_log = structlog.get_logger("primed.verifier")


class Verifier:
    name: Role = "verifier"

    def __init__(self, part: Participation, child: Child, seed: bytes) -> None:
        """seed: the node's Ed25519 seed, for its draws."""
        self._part = part
        self._child = child
        self._seed = seed
        self._checking: dict[bytes, str] = {}  # commitment -> how it stands
        self._at_once = trio.CapacityLimiter(AT_ONCE)
        self._fetches = Fetches(part.me, part.rollouts)
        self._undrawn: list[bytes] = []  # commitments whose draw is to be made
        part.on_case(self._note)

    def view(self) -> RoleView:
        state, reason = "idle", "no open commitment has drawn this node"
        if self._checking:
            state, reason = "checking", "; ".join(list(self._checking.values())[:AT_ONCE])
        return RoleView(role=self.name, run=self._part.run.run_id.hex(), state=state, reason=reason)

    def _note(self, case: Case) -> None:
        if self._part.cases.duty(case.commitment, self._part.me) is not None:
            self._undrawn.append(case.commitment)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow_policies)
            nursery.start_soon(self._draw)
            while True:
                claimed = await self._part.changes.until(
                    self._claimed,
                    "a batch to check",
                    "a commitment that draws this verifier",
                    3600.0,
                )
                for case in claimed or ():
                    self._checking[case.commitment] = f"batch {case.body.counter}"
                    nursery.start_soon(self._serve, case)

    def _claimed(self) -> list[Case] | None:
        """Claims of ours that nobody works on yet."""
        unfinished = self._part.cases.unfinished(self._part.me)
        return [case for case in unfinished if case.commitment not in self._checking] or None

    async def _draw(self) -> None:
        """Claim what draws this verifier, as soon as its commitment can be drawn."""
        part = self._part
        while True:
            await part.changes.until(
                lambda: self._undrawn or None, "a commitment", "workers", 3600.0
            )
            while self._undrawn:
                commitment = self._undrawn.pop(0)
                claim = part.cases.claim_for(
                    commitment, part.me, lambda alpha: vrf.prove(self._seed, alpha)
                )
                if claim is not None:
                    await part.events.emit(claim)

    async def _follow_policies(self) -> None:
        """Have each version's weights as soon as it is published, before a batch needs them."""
        part = self._part
        learners = list(part.run.peers("learner"))
        while True:
            newest = await part.changes.until(
                lambda: self._missing(learners), "the next policy version", "the learners", 3600.0
            )
            try:
                for version in newest or []:
                    await part.policies.ensure(version, self._child)
            except (ChildFailed, PolicyUnavailable) as error:
                _log.warning("policy not made", reason=str(error))
                await trio.sleep(RETRY_S)

    def _missing(self, learners: list[bytes]) -> list[bytes] | None:
        newest = (self._part.lineages.newest(learner) for learner in learners)
        return [v for v in newest if v is not None and not self._part.policies.has(v)] or None

    # ---- one batch -------------------------------------------------------------------------

    async def _serve(self, case: Case) -> None:
        """Check until there is a verdict or the case has ended without us."""
        patience = Patience(0.8 * self._part.run.spec.parameters.verdict_s)
        try:
            while case.is_up_for_judgement:
                checked = await self._tried(case, patience)
                if checked is not None:
                    return await self._state_verdict(case, checked)
                await trio.sleep(RETRY_S)
        finally:
            del self._checking[case.commitment]

    async def _tried(self, case: Case, patience: Patience) -> Checked | None:
        """None: try again later."""
        try:
            return await self._checked(case, patience)
        except (RemoteError, PolicyUnavailable, ChildFailed) as error:
            patience.start()
            if patience.is_over:
                return _cannot_check(error)
            self._checking[case.commitment] = f"batch {case.body.counter}: {error}"
            return None

    async def _checked(self, case: Case, patience: Patience) -> Checked:
        part = self._part
        fault = part.version_fault(case)
        if fault is None:
            raise PolicyUnavailable("a manifest that the commitment names has not arrived")
        if fault:
            return _rejected("version", fault)
        each_s = 0.4 * part.run.spec.parameters.verdict_s  # two holders have their turn in time
        path = await self._fetches.fetch(case, patience, each_s)
        weights = await part.policies.ensure(case.body.version, self._child)
        output = self._draw_output(case)
        request = Check(
            id=0, inspect=inspection_of(case, path), weights_path=str(weights), draw=output
        )
        name = f"check of batch {case.body.counter}"
        async with self._at_once:
            checked = await self._child.ask(request, Checked, timeout_s=CHECK_S, name=name)
        if checked.outcome == "accept":
            copied = await copied_from(part, case, checked.fingerprints)
            if copied is not None:
                return _rejected("duplicate", f"same completions as commitment {copied.hex()[:16]}")
        return checked

    def _draw_output(self, case: Case) -> bytes:
        """Our draw for this batch again: it also decides which chunks are opened."""
        assert case.terms is not None  # it is claimed
        alpha = draw.alpha(
            self._part.run.run_id, case.worker, case.body.counter, 0, case.terms.cut_root
        )
        output = vrf.output(
            signing.public_key_of(self._part.me), alpha, vrf.prove(self._seed, alpha)
        )
        assert output is not None
        return output

    async def _state_verdict(self, case: Case, checked: Checked) -> None:
        part = self._part
        verdict = Verdict(
            commitment=case.commitment,
            round=0,
            outcome=checked.outcome,
            reason=checked.reason[:200],
            measurements=checked.measurements,
        )
        evidence = msgspec.msgpack.encode(Evidence(verdict, checked.detail[:EVIDENCE_DETAIL_CHARS]))
        name = digest("evidence", evidence)
        await on_disk(part.store.evidence.put, part.run.run_id, name, case.commitment, evidence)
        await part.events.emit(verdict)
        part.metrics.verdicts.labels(part.run.spec.name, verdict.outcome, verdict.reason).inc()
        _log.info(
            "verdict",
            counter=case.body.counter,
            outcome=checked.outcome,
            reason=checked.reason,
            detail=checked.detail,
        )


def _rejected(reason: str, detail: str) -> Checked:
    return Checked(
        id=0,
        outcome="reject",
        reason=reason,
        detail=detail,
        measurements={},
        fingerprints=[],
        seconds=0.0,
    )


def _cannot_check(error: Exception) -> Checked:
    """Nobody gave the batch, or the check could not be made: said openly, never fraud."""
    reason = "unavailable" if isinstance(error, RemoteError) else "timeout"
    if isinstance(error, RemoteError):
        return _rejected(reason, str(error))
    return msgspec.structs.replace(_rejected(reason, str(error)), outcome="inconclusive")
