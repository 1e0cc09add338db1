"""Scenario 1: kill -9 of a worker's daemon in the middle of a batch."""

from __future__ import annotations

from .books import assert_all_is_counted_once, books_of
from .running import RunningSwarm, is_alive, kill_when

WORKING = ("generating", "stored")


def unfinished_counter(running: RunningSwarm) -> int | None:
    """The counter of a batch that worker-1 has begun and not committed to."""
    newest = books_of(running, "worker-1").newest_batch()
    return newest[0] if newest is not None and newest[1] in WORKING else None


def test_scenario_1_a_worker_killed_in_a_batch_goes_on_where_it_was(running: RunningSwarm) -> None:
    node = running["worker-1"]
    (child,) = node.status().children
    counter = kill_when(node, lambda: unfinished_counter(running), "a batch under way")
    running.until(lambda: not is_alive(child.pid), "the end of the killed daemon's child", 15)
    running.goes_on("learner", "verifier", "worker-2", "relay")
    committed = books_of(running, "learner").counters(node.peer)
    assert committed == list(range(counter))  # the batch under way was not committed

    assert node.restart().peer == node.text
    running.until(
        lambda: len(books_of(running, "learner").counters(node.peer)) >= counter + 2,
        "two more batches of the worker",
    )
    assert_all_is_counted_once(running)
    states = {batch.counter: batch.state for batch in running.rewards("worker-1").batches}
    assert states[counter] not in ("generating", "stored")  # made again, under the same counter
