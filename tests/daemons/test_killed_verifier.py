"""kill -9 of the verifier's daemon after its claim: the claim is void in time, the rest goes on."""

from __future__ import annotations

import pytest

from primed.verify.statements import Claim, Committed, Verdict

from .books import Books, assert_sound, books_of
from .running import RunningSwarm, kill_when

pytestmark = pytest.mark.timeout(300)

OPEN = ("generating", "stored", "committed", "drawn")


def judged_by(books: Books) -> set[bytes]:
    return {e.body.commitment for e in books.entries(Verdict) if isinstance(e.body, Verdict)}


def claimed(books: Books) -> bytes | None:
    """The commitment that this verifier claimed last, if it has not judged it."""
    claims = [e.body.commitment for e in books.entries(Claim) if isinstance(e.body, Claim)]
    return claims[-1] if claims and claims[-1] not in judged_by(books) else None


def state_of(running: RunningSwarm, commitment: bytes) -> str:
    """As `primed rewards` of its worker shows it."""
    entries = books_of(running, "learner").entries(Committed)
    (entry,) = (entry for entry in entries if entry.digest == commitment)
    assert isinstance(entry.body, Committed)
    (worker,) = (name for name, node in running.up().items() if node.peer == entry.author)
    batches = {batch.counter: batch for batch in running.rewards(worker).batches}
    return batches[entry.body.counter].state


def test_a_claim_of_a_killed_verifier_is_void_in_time_and_the_rest_goes_on(
    running: RunningSwarm,
) -> None:
    node, books = running["verifier"], books_of(running, "verifier")
    commitment = kill_when(node, lambda: claimed(books), "a claim without a verdict")
    running.until(lambda: state_of(running, commitment) not in OPEN, "an end of the claimed batch")
    assert state_of(running, commitment) != "rejected"
    running.goes_on("learner", "worker-1", "worker-2")
    for name in ("learner", "worker-1"):
        problem = running.until(lambda: running.problems(name).get("verifier-away"), "the problem")  # noqa: B023
        assert "is not connected" in problem

    judged = judged_by(books)
    node.restart()
    running.until(lambda: judged_by(books) - judged, "a verdict after the restart")
    running.until(lambda: not running.problems("learner"), "the end of the problem")
    running.goes_on("verifier")
    assert_sound(running)
