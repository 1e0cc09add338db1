"""Scenario 1: kill -9 of a worker's daemon in the middle of a batch."""

from __future__ import annotations

from typing import Any

import pytest

from .books import assert_sound, books_of
from .commands import primed_json
from .running import RunningSwarm, is_alive, kill_when

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("state", ["generating", "stored"])
def test_scenarios_1_and_42_a_worker_killed_in_a_batch_goes_on_where_it_was(
    running: RunningSwarm, state: str
) -> None:
    """generating: in the middle of the work; stored: two holders have receipted the batch, and the
    commitment is not stated yet."""
    node, books = running["worker-1"], books_of(running, "worker-1")
    (child,) = node.status().children

    def counter_in_state() -> int | None:
        newest = books.newest_batch()
        return newest[0] if newest is not None and newest[1] == state else None

    counter = kill_when(node, counter_in_state, f"a batch that is {state}")
    running.until(lambda: not is_alive(child.pid), "the end of the killed daemon's child", 15)
    running.goes_on("learner", "verifier", "worker-2", "relay")
    others = books_of(running, "learner")
    committed = others.counters(node.peer)  # without that batch, or the kill came a moment later
    assert committed in (list(range(counter)), list(range(counter + 1)))

    assert node.restart().peer == node.text
    running.until(
        lambda: len(others.counters(node.peer)) >= counter + 2, "two more batches of the worker"
    )
    assert_sound(running)
    states = {batch.counter: batch.state for batch in running.rewards("worker-1").batches}
    assert states[counter] not in ("generating", "stored")  # made again, under the same counter


def test_all_daemons_show_the_same_ledger(running: RunningSwarm) -> None:
    """Scenario 42, as a user sees it, after whatever the tests before this one did."""

    def one_view() -> list[dict[str, Any]] | None:
        shown = [primed_json(node, "runs", "show", running.run) for node in running.up().values()]
        return shown if len({view["cut"] for view in shown}) == 1 else None

    shown = running.until(one_view, "the same cut on all daemons")
    assert shown[0]["cut"] > 0
    assert len({view["state_root"] for view in shown}) == 1
    balances = [
        [(a["peer"], a["final"], a["pending"], a["excluded"]) for a in view["accounts"]]
        for view in shown
    ]
    assert all(each == balances[0] for each in balances)
