"""Learner: trains on usable batches of its lineage and publishes the next policy version.

Order of a step, so that a crash anywhere resumes the same lineage with the same next step: the
choice of batches is journalled; the child writes and syncs state, weights and delta; the manifest
event is stored and synced; then it is published and its shards are sent. A journalled step without
a manifest is made again from the same batches, bit for bit.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import structlog
import trio

from primed.node.participation import Participation
from primed.node.policies import PolicyUnavailable
from primed.node.roles.inspections import Inspections
from primed.node.roles.memory import OutOfMemory, Portion
from primed.node.roles.merging import Merging
from primed.node.supervisor import Child, ChildFailed
from primed.node.views import RoleView
from primed.protocols.disk import on_disk
from primed.training.messages import FORWARD_TOKENS, Train, Trained
from primed.verify.cases import OVER, Case
from primed.verify.runspec import Role
from primed.verify.statements import Manifest, version_of

TRAIN_S = 3600.0
BASE_S = 600.0
BATCHES_S = 60.0  # then the learner looks at the state of things again
RETRY_S = 2.0
_log = structlog.get_logger("primed.learner")


class Learner:
    name: Role = "learner"

    def __init__(self, part: Participation, child: Child) -> None:
        self._part = part
        self._child = child
        self._inspections = Inspections(part, child)
        self._state = "starting"
        self._reason = ""
        self._portion = Portion(FORWARD_TOKENS)
        self._folder = part.folder / "learner"
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._merging = Merging(part, child, self._folder)

    def view(self) -> RoleView:
        return RoleView(
            role=self.name, run=self._part.run.run_id.hex(), state=self._state, reason=self._reason
        )

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._inspections.run)
            nursery.start_soon(self._merging.run)
            while not self._part.is_done(self._part.me):
                try:
                    await self._one_step()
                except OutOfMemory as error:
                    self._say("stopped", str(error))
                    await self._part.rest("learner", str(error))
                except (ChildFailed, PolicyUnavailable) as error:
                    self._say("waiting", str(error))
                    _log.warning("no step", reason=str(error))
                    await trio.sleep(RETRY_S)
            self._say("finished", "it has made the run's last step")
            await trio.sleep_forever()

    def _say(self, state: str, reason: str = "") -> None:
        self._state, self._reason = state, reason

    # ---- one step --------------------------------------------------------------------------

    async def _one_step(self) -> None:
        part = self._part
        self._say("waiting", "the run's base checkpoint")
        parent = await part.changes.until(
            lambda: part.lineages.newest(part.me), "the base checkpoint", "the originator", BASE_S
        )
        if parent is None:
            raise PolicyUnavailable("the run's base checkpoint has not been announced yet")
        step = part.lineages.manifests[parent].step + 1
        chosen = await self._chosen(step)
        if chosen is None:
            return
        trained = await self._train(step, parent, chosen)
        if trained.refused:
            await self._quarantine(step, chosen, trained.refused)
        else:
            await self._publish(step, parent, chosen, trained)

    async def _chosen(self, step: int) -> list[tuple[bytes, Path]] | None:
        """(commitment, file) of this step's batches: those journalled before a crash, else the
        oldest usable ones. None after a while without enough, or when a batch is gone."""
        run_id, journal = self._part.run.run_id, self._part.store.journal
        commitments = await on_disk(journal.batches, run_id, step)
        if commitments is None:
            fit = await self._enough(step)
            if fit is None:
                return None
            wanted = [case.commitment for case in fit]
            commitments = await on_disk(journal.choose, run_id, step, wanted)
        return await self._files(step, commitments)

    async def _files(self, step: int, commitments: list[bytes]) -> list[tuple[bytes, Path]] | None:
        """The chosen batches' files. After a restart they are inspected again first; a batch
        that came to an end or cannot be had any more ends the choice, since the step was never
        made."""

        def look() -> list[tuple[bytes, Path]] | None:
            if any(map(self._is_over, commitments)):
                return []
            found = [
                (each, path) for each in commitments if (path := self._inspections.passed(each))
            ]
            return found if len(found) == len(commitments) else None

        files = await self._part.changes.until(
            look, f"files of step {step}", "the chosen batches to be inspected", BATCHES_S
        )
        if not files:
            await on_disk(self._part.store.journal.drop, self._part.run.run_id, step)
        return files or None

    def _is_over(self, commitment: bytes) -> bool:
        """Whether a chosen batch will not be trained on any more, and its file may be deleted."""
        case = self._part.cases.case(commitment)
        return case is None or bool(case.used_by) or case.state in OVER

    async def _enough(self, step: int) -> list[Case] | None:
        part = self._part
        await self._inspections.refuse_stale()
        wanted = part.run.spec.parameters.batches_per_step
        self._say("waiting", f"{wanted} usable batches for step {step}")
        return await part.changes.until(
            lambda: self._fit(wanted),
            f"batches for step {step}",
            f"{wanted} usable batches from workers",
            BATCHES_S,
        )

    def _fit(self, wanted: int) -> list[Case] | None:
        usable = self._part.cases.usable(self._part.me)
        fit = [case for case in usable if self._inspections.passed(case.commitment)]
        return fit[:wanted] if len(fit) >= wanted else None

    async def _train(self, step: int, parent: bytes, chosen: list[tuple[bytes, Path]]) -> Trained:
        policies, base = self._part.policies, self._part.lineages.base
        assert base is not None
        self._say("training", f"step {step} on {len(chosen)} batches")
        train = Train(
            id=0,
            step=step,
            parent_path=str(await policies.ensure(parent, self._child)),
            reference_path=str(await policies.ensure(base, self._child)),
            state_path=str(self._file("state", step - 1)) if step > 1 else None,
            batch_paths=[str(path) for _, path in chosen],
            out_state_path=str(self._file("state", step)),
            out_weights_path=str(self._file("weights", step)),
            out_delta_path=str(self._file("delta", step)),
        )

        def request(tokens: int) -> Train:
            return msgspec.structs.replace(train, forward_tokens=tokens)

        return await self._portion.ask(
            self._child, request, Trained, timeout_s=TRAIN_S, name=f"step {step}"
        )

    def _file(self, what: str, step: int) -> Path:
        return self._folder / f"{what}-{step}"

    async def _publish(
        self, step: int, parent: bytes, chosen: list[tuple[bytes, Path]], trained: Trained
    ) -> None:
        part = self._part
        self._say("publishing", f"step {step}")
        async with part.unnamed:
            manifest = await self._manifest(step, parent, chosen, trained)
            await part.policies.take(version_of(manifest), self._file("weights", step))
            await part.events.emit(manifest)
        assert manifest.delta is not None
        await part.shardcast.push(manifest.delta, part.me)
        await on_disk(part.store.journal.finish, part.run.run_id, step)
        self._note_alarm(trained)
        for what, old in (("state", step - 2), ("delta", step)):
            self._file(what, old).unlink(missing_ok=True)
        _log.info("step", step=step, reward=manifest.reward_mean, seconds=round(trained.seconds, 2))

    async def _manifest(
        self, step: int, parent: bytes, chosen: list[tuple[bytes, Path]], trained: Trained
    ) -> Manifest:
        """The new version's manifest, its payloads taken in by shardcast."""
        add = self._part.shardcast.add
        is_anchor = step % self._part.run.spec.parameters.anchor_every == 0
        return Manifest(
            learner=self._part.me,
            kind="step",
            step=step,
            parents=(parent,),
            weights=trained.weights,
            delta=await add(self._file("delta", step)),
            snapshot=await add(self._file("weights", step)) if is_anchor else None,
            consumed=tuple(commitment for commitment, _ in chosen),
            grad_norm=trained.metrics.get("grad_norm", 0.0),
            reward_mean=trained.metrics.get("reward_mean", 0.0),
        )

    # ---- what can go wrong with a step -----------------------------------------------------

    async def _quarantine(self, step: int, chosen: list[tuple[bytes, Path]], why: str) -> None:
        """The step was refused (non-finite loss): its batches are never used, others are."""
        for commitment, _ in chosen:
            case = self._part.cases.case(commitment)
            if case is not None:
                await self._inspections.refuse(case, "quarantined", why)
        await on_disk(self._part.store.journal.drop, self._part.run.run_id, step)

    def _note_alarm(self, trained: Trained) -> None:
        name = f"unstable-{self._part.run.run_id.hex()[:8]}"
        if trained.alarm:
            what = f"step {trained.step} of {self._part.run.spec.name}: {trained.alarm}"
            fix = "watch the reward; a lower learning rate in the next run file makes steps smaller"
            self._part.problems.raise_(name, what, fix)
        else:
            self._part.problems.clear(name)
