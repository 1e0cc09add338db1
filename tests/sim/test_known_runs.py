"""What peers say about runs costs no disk, and no peer fills the list of them for good."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec
import pytest
import trio

from primed.node import joining
from primed.verify.runspec import Run, sign_run

from .daemon import SimDaemon
from .test_late_nodes import Told, plan_with, play


def made_up(daemon: SimDaemon, like: Run, count: int) -> list[Run]:
    """Well-formed runs that the daemon says it takes part in."""
    identity = daemon.member.identity
    specs = [
        msgspec.structs.replace(like.spec, name=f"made-up-{number}", originator=identity.peer)
        for number in range(count)
    ]
    return [sign_run(spec, identity.sign) for spec in specs]


def state(daemon: SimDaemon, runs: Sequence[Run]) -> None:
    assert daemon.joining is not None
    hello, truthful = daemon.joining.hello, daemon.joining._record
    daemon.joining.known |= {run.run_id: run for run in runs}
    ids = tuple(run.run_id for run in runs)
    hello._build_record = lambda: msgspec.structs.replace(truthful(), runs=ids)
    hello.announce()


class ManyRuns(Told):
    async def tell(self) -> None:
        parts = {name: await self.until_in(name) for name in self.daemons}
        assert len(parts) == 6
        victim, *others = self.daemons.values()
        assert victim.joining is not None and victim.services is not None

        def full(*_: object) -> bool:
            raise sqlite3.OperationalError("database or disk is full")

        victim.services.store.runs.add = full  # type: ignore[assignment]
        known = victim.joining.known
        state(others[0], made_up(others[0], self.run, 60))
        await trio.sleep(10)
        assert len(known) == 1 + joining.RUNS_LEARNED_FROM
        honest = made_up(others[1], self.run, 1)
        for other in others[2:]:
            state(other, made_up(other, self.run, 60))
        await trio.sleep(10)
        state(others[1], honest)
        await trio.sleep(10)
        assert len(known) == 1 + joining.RUNS_LEARNED == 21
        assert honest[0].run_id in known and self.run.run_id in known
        assert victim.is_up and victim.part(self.run.run_id) is parts[victim.member.name]


def test_runs_that_peers_make_up_push_each_other_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "RUNS_LEARNED", 20)
    play(ManyRuns, plan_with())
