"""Worker: generates batches with the newest policy of its learner, pushes them, commits to them.

Push, then commit: two holders have the batch before the commitment is stated, so nobody needs this
node afterwards. The worker's own events are the truth about its counters: after a crash the next
counter follows from them, and an uncommitted batch of that counter is made again.
"""

from __future__ import annotations

from pathlib import Path

import structlog
import trio

from primed.node.participation import Participation
from primed.node.policies import PolicyUnavailable
from primed.node.roles.memory import OutOfMemory, Portion
from primed.node.roles.pushing import BYTES_PER_S, RECEIPTS, Holders, Push
from primed.node.supervisor import Child, ChildFailed
from primed.node.views import RoleView
from primed.p2p import peerid
from primed.p2p.errors import RemoteError
from primed.p2p.waits import Words, said
from primed.training.messages import Generate, Generated
from primed.verify.digests import u64
from primed.verify.rendezvous import ranked
from primed.verify.runspec import Role
from primed.verify.statements import Committed, Receipt, Skipped

GENERATE_S = 600.0
PUSH_S = 60.0  # to find two holders for a small batch
RETRY_S = 1.0
IDLE_S = 60.0
TRIES = 3  # of one counter, before it is skipped
_log = structlog.get_logger("primed.worker")


class Worker:
    name: Role = "worker"

    def __init__(self, part: Participation, child: Child) -> None:
        self._part = part
        self._child = child
        self._state = "starting"
        self._reason: Words = ""
        self._failed_tries = 0
        sampling = part.run.spec.sampling
        self._portion = Portion(sampling.groups * sampling.group_size)
        self._pushed_to = Holders(part.rollouts)
        self._folder = part.folder / "generated"
        self._folder.mkdir(mode=0o700, exist_ok=True)

    def view(self) -> RoleView:
        return RoleView(
            role=self.name,
            run=self._part.run.run_id.hex(),
            state=self._state,
            reason=said(self._reason),
        )

    async def run(self) -> None:
        while True:
            if await self._is_idle():
                continue
            try:
                await self._one_batch()
                self._failed_tries = 0
            except OutOfMemory as error:
                self._say("stopped", str(error))
                await self._part.rest("worker", str(error))
            except (ChildFailed, PolicyUnavailable, RemoteError) as error:
                self._say("waiting", str(error))
                _log.info("no batch", reason=str(error))
                await trio.sleep(RETRY_S)

    async def _is_idle(self) -> bool:
        """Whether there is nothing to generate now; waits a while if so."""
        part = self._part
        if part.cases.is_excluded(part.me):
            frauds = part.cases.worker(part.me).frauds
            reasons = ", ".join(f"batch {counter}: {reason}" for counter, reason in frauds)
            self._say("excluded", f"rejected as fraud: {reasons}")
            name, waiting_for = "an admission", "the originator to admit this key again"
        elif part.is_finished():
            self._say("finished", "the run has made its last step")
            name, waiting_for = "a next step", "the learner to go on"
        else:
            return False
        await part.changes.until(lambda: None, name, waiting_for, IDLE_S)
        return True

    async def _count_failure(self, error: ChildFailed) -> None:
        """A counter whose batch cannot be made is skipped, so that later ones stay contiguous."""
        if error.kind not in ("bug", "bad_input"):
            return
        self._failed_tries += 1
        if self._failed_tries >= TRIES:
            self._failed_tries = 0
            counter, reason = self._part.own.next_counter, str(error)[:200]
            await self._part.events.emit(Skipped(counter=counter, reason=reason))
            await self._part.own.skipped(counter, reason)

    def _say(self, state: str, reason: Words = "") -> None:
        self._state, self._reason = state, reason

    # ---- one batch -------------------------------------------------------------------------

    async def _one_batch(self) -> None:
        learner = self._part.learner_of(self._part.me)
        self._say("waiting", "its newest policy version")
        version = await self._part.changes.until(
            lambda: self._part.lineages.newest(learner),
            "the base checkpoint",
            "the originator's first manifest",
            self._part.run.spec.parameters.silent_learner_s,
        )
        if version is None:
            raise PolicyUnavailable("the run's base checkpoint has not been announced yet")
        path = await self._part.policies.ensure(version, self._child)
        if not await self._has_room(learner):
            return
        seen = self._part.lineages.newest(learner)
        if seen is None or version not in (seen, *self._part.lineages.manifests[seen].parents):
            return  # the policy moved on while its weights were made: take the newer one
        generated = await self._generate(self._part.own.next_counter, version, path)
        receipts = await self._push(learner, generated)
        await self._commit(learner, seen, generated, receipts)

    async def _has_room(self, learner: bytes) -> bool:
        """Wait while as many batches as can be used in time are under way (docs/decisions/0004).
        False: the policy may have moved on meanwhile, look again."""
        part = self._part
        if part.has_room(learner):
            return True
        self._say("waiting", "the learner has enough of this node's batches to go on with")
        await part.changes.until(
            lambda: part.has_room(learner) or part.learner_of(part.me) != learner or None,
            "room for another batch",
            f"learner {peerid.short(learner)} to use the ones under way",
            part.run.spec.parameters.silent_learner_s,
        )
        return False

    async def _generate(self, counter: int, version: bytes, weights: Path) -> Generated:
        self._say("generating", f"batch {counter} with step {self._part.lineages.step_of(version)}")
        out = self._folder / f"{counter}.batch"
        await self._part.own.begin(counter, version)

        def request(rows: int) -> Generate:
            return Generate(
                id=0,
                counter=counter,
                version=version,
                weights_path=str(weights),
                out_path=str(out),
                rows_max=rows,
            )

        name = f"batch {counter}"
        try:
            return await self._portion.ask(
                self._child, request, Generated, timeout_s=GENERATE_S, name=name
            )
        except ChildFailed as error:
            await self._count_failure(error)
            raise

    async def _push(self, learner: bytes, made: Generated) -> tuple[Receipt, ...]:
        """Receipts of two holders: the learner and the first others, in rendezvous order."""
        push = Push(self._pushed_to, made, lambda: self._holders(learner, made.counter))
        push_s = PUSH_S + 2 * made.size_bytes / BYTES_PER_S
        self._say("pushing", lambda: f"batch {made.counter}: {push.told()}")
        with self._part.waits.named(f"holders of batch {made.counter}", push.told, push_s):
            with trio.move_on_after(push_s):
                await push.run()
        if not push.receipts:
            raise RemoteError(f"nobody stored batch {made.counter}: {push.told()}")
        await self._part.own.stored(made)
        order = sorted(push.receipts, key=lambda holder: holder != learner)
        return tuple(push.receipts[holder] for holder in order[:RECEIPTS])

    def _holders(self, learner: bytes, counter: int) -> list[bytes]:
        others = {peer: 1 for peer in self._part.holders() if peer != learner}
        order = ranked(others, "holder", self._part.me, u64(counter))
        return ([learner] if self._part.is_connected(learner) else []) + order

    async def _commit(
        self, learner: bytes, seen: bytes, made: Generated, receipts: tuple[Receipt, ...]
    ) -> None:
        number, root = self._part.ledger.newest_cut()
        entry = await self._part.events.emit(
            Committed(
                learner=learner,
                counter=made.counter,
                version=made.version,
                seen=seen,
                cut=number,
                cut_root=root,
                batch=made.batch,
                size_bytes=made.size_bytes,
                root=made.root,
                rollouts=made.rollouts,
                chunks=made.chunks,
                tokens=made.tokens,
                receipts=receipts,
            )
        )
        await self._part.own.committed(made, entry.digest)
        Path(made.path).unlink(missing_ok=True)
