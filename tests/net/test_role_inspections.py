"""The learner's inspections of batches whose cases change meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import trio

from primed.node.participation import Participation
from primed.node.roles.inspections import Inspections
from primed.node.store import Store
from primed.node.supervisor import Child
from primed.node.waits import Changes, Waits
from primed.protocols.disk import inline
from primed.training.messages import Inspected
from primed.verify.cases import Assessment, Case
from primed.verify.statements import Rejected

from .memory_network import Fabric
from .protocol_samples import RUN
from .test_protocol_rollouts import Node, a_batch
from .test_role_fetching import case_of

pytestmark = pytest.mark.trio
UNDER_WAY = Assessment("drawn")
USABLE = Assessment("usable", is_usable=True)
OVER = Assessment("inconclusive")


class Learner:
    """A learner's inspections over a real store and real holders. Its child finds every batch sound,
    with the same fingerprint; what its run would observe is `told`."""

    def __init__(self, nursery: trio.Nursery, folder: Path) -> None:
        fabric = Fabric(nursery)
        self.node, self.holder = (Node(fabric.node(seed), folder / str(seed)) for seed in (1, 2))
        fabric.link_all()
        self.refused: list[tuple[bytes, str]] = []
        self.meanwhile: list[trio.Event] = []  # the child waits for these, one an inspection
        self.asked = 0
        self._folder = folder
        self._listeners: list[Callable[[Case], None]] = []
        self._changes = Changes(Waits())
        part = SimpleNamespace(
            me=self.node.network.peer,
            changes=self._changes,
            on_case=self._listeners.append,
            version_fault=lambda case: "",
            rollouts=self.node.rollouts,
            events=SimpleNamespace(emit=self._emit),
            run=SimpleNamespace(run_id=RUN),
            store=Store(folder / "store.sqlite"),
        )
        child = SimpleNamespace(ask=self._ask)
        self.inspections = Inspections(cast(Participation, part), cast(Child, child))
        nursery.start_soon(self.inspections.run)

    async def _ask(self, *_: object, **__: object) -> Inspected:
        self.asked += 1
        if self.meanwhile:
            await self.meanwhile.pop(0).wait()
        return Inspected(id=0, failed="", detail="", fingerprints=[b"f" * 32], reward_mean=0.0)

    async def _emit(self, body: Rejected) -> None:
        await trio.lowlevel.checkpoint()
        self.refused.append((body.commitment, body.reason))

    async def committed(self, number: int) -> Case:
        """A batch of another worker, at the holder."""
        path = a_batch(self._folder, 1000, number)
        await self.holder.push(self.holder, path, number)
        case = self.case(number, path.read_bytes())
        await self.told(case, UNDER_WAY)
        return case

    def case(self, number: int, batch: bytes) -> Case:
        holder, me = self.holder.network.peer, self.node.network.peer
        return case_of(number, bytes([number]) * 38, batch, holder, learner=me)

    async def told(self, case: Case, now: Assessment) -> None:
        case.now = now
        self._listeners[0](case)
        self._changes.notify()
        await trio.sleep(1)

    def has_passed(self, case: Case) -> bool:
        return self.inspections.passed(case.commitment) is not None


@asynccontextmanager
async def learner(folder: Path) -> AsyncIterator[Learner]:
    with inline():
        async with trio.open_nursery() as nursery:
            yield Learner(nursery, folder)
            nursery.cancel_scope.cancel()


async def test_a_copy_that_was_inspected_first_does_not_have_the_original_refused(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with learner(tmp_path) as made:
        copy, original = await made.committed(1), await made.committed(2)
        assert made.asked == 2 and not made.has_passed(copy) and not made.has_passed(original)
        await made.told(original, USABLE)
        assert made.has_passed(original) and not made.refused
        await made.told(copy, USABLE)
        assert made.refused == [(copy.commitment, "duplicate")] and not made.has_passed(copy)
        assert made.asked == 2


@pytest.mark.parametrize("is_reopened_meanwhile", [True, False])
async def test_a_batch_that_was_over_and_deleted_while_it_was_inspected_is_had_again(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, is_reopened_meanwhile: bool
) -> None:
    async with learner(tmp_path) as made:
        go_on = trio.Event()
        made.meanwhile.append(go_on)
        case = await made.committed(1)
        await made.told(case, OVER)
        path = made.node.rollouts.path(case.body.batch)
        assert path is not None
        await made.node.rollouts.forget(case.worker, 1, case.body.batch, fetched=True)
        if not is_reopened_meanwhile:
            go_on.set()
            await trio.sleep(1)
        await made.told(case, USABLE)
        go_on.set()
        await trio.sleep(2)
        assert made.has_passed(case) and path.exists() and not made.refused


async def test_a_batch_that_nobody_gives_is_refused(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with learner(tmp_path) as made:
        case = made.case(0, b"a batch")
        await made.told(case, UNDER_WAY)
        await trio.sleep(20)
        assert not made.refused
        await trio.sleep(20)
        assert made.refused == [(case.commitment, "unavailable")]
