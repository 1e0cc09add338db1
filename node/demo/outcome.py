"""What came of a demo: one object, whether it reached its goals, and why not."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from primed.node.views import AccountView, RunView

REWARD_GOAL = 0.8


class Outcome(Struct, frozen=True, kw_only=True):
    """Fields of the final JSON object. Rewards are means of the first and last five versions,
    bytes are leaf bytes received by all daemons, credits are final + pending."""

    reward_first: float
    reward_last: float
    versions: int
    batches_usable: int
    rejected_honest: int
    rejected_dishonest: int
    dishonest_reasons: str
    dishonest_excluded: bool
    credits: dict[str, float]
    bytes_gossip: int
    bytes_pulled: int
    seconds: float
    seed: int
    ok: bool
    missed: tuple[str, ...]  # goals that were not reached


def judge(
    learner: str,
    views: Mapping[str, RunView],
    peers: Mapping[str, str],
    dishonest: str,
    seconds: float,
    seed: int,
) -> Outcome:
    """views: each daemon's view of the run, by node name; peers: node name -> peer id. What a
    worker did is as the learner's daemon saw it."""
    seen = views[learner]
    accounts = {account.peer: account for account in seen.accounts}
    workers = {name: accounts.get(peer) for name, peer in peers.items() if "worker" in name}
    bad = workers.pop(dishonest)
    excluded = all(
        peers[dishonest] in view.excluded for name, view in views.items() if name != dishonest
    )
    credits = {name: _credits(account) for name, account in {**workers, dishonest: bad}.items()}
    rejected_honest = sum(account.batches_rejected for account in workers.values() if account)
    reward_last = seen.reward_last or 0.0
    missed = []
    if reward_last < REWARD_GOAL:
        missed.append(f"reward_last is {reward_last:.2f}, the goal is {REWARD_GOAL}")
    if rejected_honest:
        missed.append(f"{rejected_honest} honest batches were rejected")
    if not excluded:
        missed.append("the dishonest worker is not excluded everywhere")
    if credits[dishonest]:
        missed.append(f"the dishonest worker has {credits[dishonest]} credits")
    return Outcome(
        reward_first=round(seen.reward_first or 0.0, 4),
        reward_last=round(reward_last, 4),
        versions=seen.versions,
        batches_usable=seen.batches_usable,
        rejected_honest=rejected_honest,
        rejected_dishonest=bad.batches_rejected if bad else 0,
        dishonest_reasons=bad.reason if bad else "",
        dishonest_excluded=excluded,
        credits={name: round(value, 3) for name, value in sorted(credits.items())},
        bytes_gossip=sum(view.pushed_bytes for view in views.values()),
        bytes_pulled=sum(view.pulled_bytes for view in views.values()),
        seconds=round(seconds, 1),
        seed=seed,
        ok=not missed,
        missed=tuple(missed),
    )


def _credits(account: AccountView | None) -> float:
    return account.final + account.pending if account else 0.0
