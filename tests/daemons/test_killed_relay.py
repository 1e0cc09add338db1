"""kill -9 of the relay, the only bootstrap peer; somebody new comes meanwhile (scenario 10)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from primed.node.demo.swarm import LocalNode
from primed.verify.statements import version_of

from .books import assert_sound, books_of
from .commands import primed_json
from .running import PARAMETERS, RunningSwarm

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def newcomer(running: RunningSwarm) -> Iterator[LocalNode]:
    node = LocalNode("newcomer", running.swarm.folder / "newcomer", ("worker",))
    running.swarm.nodes["newcomer"] = node
    yield node
    node.stop()
    del running.swarm.nodes["newcomer"]


def test_a_newcomer_waits_for_the_killed_relay_and_joins_in_mid_run(
    running: RunningSwarm, newcomer: LocalNode
) -> None:
    relay = running["relay"]
    address = relay.address()
    running.until(
        lambda: running.step("relay") > PARAMETERS.anchor_every, "a version after a snapshot"
    )
    relay.kill()
    newcomer.start(options=["--join", f"primed://{running.run}@{address}"])
    running.goes_on("learner", "worker-1", "worker-2", "verifier")
    for name in ("learner", "worker-1", "worker-2", "verifier"):
        problem = running.until(lambda: running.problems(name).get("relay-away"), "the problem")  # noqa: B023
        assert "no relay of run" in problem

    network = newcomer.wait_up().network
    assert network.state == "connecting"
    running.until(lambda: "retrying" in newcomer.status().network.reason, "a first failed try", 15)
    assert "no answer from the bootstrap peer" in newcomer.status().network.reason
    (trouble,) = newcomer.status().problems
    assert trouble.name == "no-peers" and trouble.fix

    relay.restart()
    joined_at = running.step("learner")
    running.until(lambda: newcomer.status().network.state == "online", "the newcomer's first peer")
    joined = primed_json(newcomer, "runs", "join", running.run, "--wait", "--timeout", "50")
    assert joined["newest"]["held"] and joined["transfers"] == []
    books = books_of(running, "newcomer")
    running.until(lambda: len(books.counters(newcomer.peer)) >= 2, "two batches of the newcomer")
    (version, *_) = books.versions_of(newcomer.peer)
    assert version >= joined_at - PARAMETERS.max_staleness
    running.until(lambda: not running.problems("learner"), "the end of the problem")
    assert_sound(running)
    assert (
        running.view("newcomer").pulled_bytes > 0
    )  # a snapshot; the base checkpoint is not needed
    made = newcomer.paths.run(bytes.fromhex(running.run)) / "weights"
    assert not (made / f"{version_of(books.manifests()[0]).hex()}.safetensors").exists()
