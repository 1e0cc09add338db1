"""kill -9 of the verifier's daemon after its claim: the claim is void in time, the rest goes on."""

from __future__ import annotations

from primed.verify.statements import Claim, Verdict

from .books import Books, assert_all_is_counted_once, books_of
from .running import RunningSwarm, kill_when


def claimed(books: Books) -> bytes | None:
    """A commitment that this verifier has claimed and not judged."""
    judged = {e.body.commitment for e in books.entries(Verdict) if isinstance(e.body, Verdict)}
    claims = [e.body.commitment for e in books.entries(Claim) if isinstance(e.body, Claim)]
    return next((commitment for commitment in reversed(claims) if commitment not in judged), None)


def test_a_claim_of_a_killed_verifier_is_void_in_time_and_taken_up_again(
    running: RunningSwarm,
) -> None:
    node, books = running["verifier"], books_of(running, "verifier")
    commitment = kill_when(node, lambda: claimed(books), "a claim without a verdict")
    running.goes_on("learner", "worker-1", "worker-2")
    for name in ("learner", "worker-1"):
        problem = running.until(lambda: running.problems(name).get("verifier-away"), "the problem")  # noqa: B023
        assert "is not connected" in problem
    rewards = [running.rewards(name) for name in ("worker-1", "worker-2")]
    assert not any(batch.state == "rejected" for view in rewards for batch in view.batches)

    node.restart()
    running.until(lambda: commitment in judged_by(books), "the verdict on what was claimed before")
    running.until(lambda: not running.problems("learner"), "the end of the problem")
    running.goes_on("verifier")
    assert_all_is_counted_once(running)


def judged_by(books: Books) -> set[bytes]:
    return {e.body.commitment for e in books.entries(Verdict) if isinstance(e.body, Verdict)}
