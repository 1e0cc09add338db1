"""The demo's live view: what a person watches while the swarm learns."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from primed.node.demo.outcome import Outcome
from primed.node.views import RunView, StatusView

HONEST_WORD = (
    "The toy model was warm-started on data that sorts digits right one time in five; RL picks that "
    "behaviour out and sharpens it. It shows the loop, not the reach, of the method."
)
_BARS = " ▁▂▃▄▅▆▇█"


def render(
    statuses: Mapping[str, StatusView], learner: RunView | None, phase: str, elapsed_s: float
) -> Group:
    """One frame: the reward so far, and a row a daemon."""
    table = Table(box=None, padding=(0, 2), expand=False)
    for heading in ("daemon", "roles", "peers", "step", "doing"):
        table.add_column(heading, overflow="ellipsis", no_wrap=True, max_width=58)
    for name, status in statuses.items():
        table.add_row(name, *_row(status))
    return Group(Panel(_headline(learner, phase, elapsed_s), title="primed demo"), table)


def _headline(learner: RunView | None, phase: str, elapsed_s: float) -> Text:
    text = Text(f"{phase}, {elapsed_s:.0f} s\n")
    if learner is None or not learner.recent:
        return text.append("reward  -")
    rewards = [version.reward_mean for version in reversed(learner.recent) if version.step]
    curve = "".join(_BARS[round(max(0.0, min(1.0, r)) * (len(_BARS) - 1))] for r in rewards)
    text.append(f"reward  {curve} {rewards[-1] if rewards else 0.0:.2f}\n", style="green")
    text.append(
        f"versions {learner.versions}   batches usable {learner.batches_usable}, "
        f"rejected {learner.batches_rejected}   cut {learner.cut}\n"
    )
    for account in learner.accounts:
        if account.excluded:
            text.append(f"excluded {account.peer[-6:]}: {account.reason}", style="red")
    return text


def _row(status: StatusView) -> tuple[str, str, str, str]:
    run = status.runs[0] if status.runs else None
    doing = "; ".join(
        f"{role.state}" + (f": {role.reason}" if role.reason else "") for role in status.roles
    )
    return (
        ", ".join(role.role for role in status.roles),
        str(status.network.peers),
        str(run.newest.step - run.lag_steps) if run and run.newest else "-",
        doing or status.network.reason,
    )


def summary(outcome: Outcome) -> Group:
    """The table at the end."""
    table = Table(box=None, show_header=False, padding=(0, 2))
    table.add_row("reward", f"{outcome.reward_first:.2f} → {outcome.reward_last:.2f}")
    table.add_row("versions", str(outcome.versions))
    table.add_row("batches usable", str(outcome.batches_usable))
    table.add_row("rejected, honest workers", str(outcome.rejected_honest))
    table.add_row(
        "rejected, dishonest worker", f"{outcome.rejected_dishonest} ({outcome.dishonest_reasons})"
    )
    table.add_row("dishonest worker excluded", "everywhere" if outcome.dishonest_excluded else "no")
    for name, credits in outcome.credits.items():
        table.add_row(f"credits of {name}", f"{credits:.3f}")
    table.add_row(
        "weights received",
        f"{_mb(outcome.bytes_gossip)} by gossip, {_mb(outcome.bytes_pulled)} pulled",
    )
    table.add_row("seconds", f"{outcome.seconds:.0f}")
    verdict = (
        Text("The swarm learned and caught the cheat.", style="bold green")
        if outcome.ok
        else Text("Goals missed: " + "; ".join(outcome.missed), style="bold red")
    )
    return Group(table, verdict, Text(HONEST_WORD, style="dim"))


def _mb(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
