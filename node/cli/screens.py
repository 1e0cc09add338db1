"""What people read: the views as compact screens, by rich. Imported only to print."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from primed.node.views import (
    PeersView,
    RewardsView,
    RunsView,
    RunView,
    StatusView,
    VerdictsView,
    WaitView,
)

_NETWORK_STYLE = {"online": "green", "alone": "yellow", "connecting": "yellow"}
_CHILD_STYLE = {"ready": "green", "busy": "green", "failed": "red", "restarting": "yellow"}


def print_status(view: StatusView, *, with_waits: bool) -> None:
    console = Console(highlight=False)
    network = view.network
    style = _NETWORK_STYLE.get(network.state, "red")
    console.print(f"[bold]primed {view.version}[/]  {view.peer}")
    console.print(f"  up {duration(view.uptime_s)}, process {view.pid}, {escape(view.data_dir)}")
    console.print(
        f"  network [{style}]{network.state}[/], {_count(network.peers, 'peer')}: "
        f"{escape(network.reason)}"
    )
    for run in view.runs:
        _print_run_line(console, run)
    _print_roles(console, view)
    if with_waits:
        _print_waits(console, view.waits)
    elif view.waits:
        console.print(f"  {_count(len(view.waits), 'open wait')} (primed status --waits)")
    for problem in view.problems:
        console.print(f"[red]problem[/] {escape(problem.what)}\n  do: {escape(problem.fix)}")
    if not view.problems:
        console.print("[green]no problems[/]")


def _print_run_line(console: Console, run: RunView) -> None:
    newest = f"step {run.newest.step}" if run.newest else "no version yet"
    lag = f", {_count(run.lag_steps, 'step')} behind" if run.lag_steps else ""
    console.print(
        f"[bold]run {escape(run.name)}[/] {run.run[:8]}: {escape(run.state)}, {newest}{lag}, "
        f"reward {trend(run)}" + (f"  ({escape(run.reason)})" if run.reason else "")
    )
    if run.warning:
        console.print(f"  [yellow]{escape(run.warning)}[/]")


def _print_roles(console: Console, view: StatusView) -> None:
    for role in view.roles:
        reason = f": {escape(role.reason)}" if role.reason else ""
        console.print(f"  {role.role} {escape(role.state)}{reason}")
    for child in view.children:
        style = _CHILD_STYLE.get(child.state, "yellow")
        work = (
            f" with {escape(child.busy_with)} for {child.busy_s:.0f} s" if child.busy_with else ""
        )
        again = f", again in {child.restart_in_s:.0f} s" if child.restart_in_s else ""
        console.print(
            f"  {child.name} (process {child.pid or '-'}) [{style}]{child.state}[/]{work}{again}"
        )
        if child.reason:
            times = _count(child.restarts, "restart")
            console.print(f"    {times}; last time it {escape(child.reason)}")


def _print_waits(console: Console, waits: Iterable[WaitView]) -> None:
    for wait in waits:
        console.print(
            f"  waits for {escape(wait.name)} ({escape(wait.waiting_for)}) "
            f"since {duration(wait.since_s)}, at most {duration(wait.deadline_s)} more"
        )


def print_peers(view: PeersView) -> None:
    table = _table("peer", "way", "since", "score", "roles", "address")
    for peer in view.peers:
        since, address = duration(peer.connected_s), peer.addresses[0] if peer.addresses else ""
        roles = ", ".join(peer.roles)
        _row(table, peer.peer, peer.direction, since, f"{peer.score:.0f}", roles, address)
    _print_table(table, "no peers: primed status says why")


def print_runs(view: RunsView) -> None:
    table = _table("run", "name", "joined as", "state", "step", "reward")
    for run in view.runs:
        step = str(run.newest.step) if run.newest else "-"
        joined = ", ".join(run.roles) if run.joined else "-"
        _row(table, run.run[:16], run.name, joined, run.state, step, trend(run))
    _print_table(table, "no runs: join one with primed runs join <invite>")


def print_run(view: RunView) -> None:
    console = Console(highlight=False)
    _print_run_line(console, view)
    console.print(f"  id {view.run}\n  by {view.originator}")
    roles = ", ".join(view.roles) if view.joined else "not joined"
    batches = f"{view.batches_usable} usable, {view.batches_rejected} rejected batches"
    console.print(f"  {roles}; {_count(view.versions, 'version')}; {batches}; cut {view.cut}")
    if view.invite:
        console.print(f"  invite {escape(view.invite)}", soft_wrap=True)
    if view.recent:
        table = _table("step", "version", "learner", "batches", "reward")
        for item in view.recent:
            reward = f"{item.reward_mean:.3f}"
            _row(
                table,
                str(item.step),
                item.version[:8],
                item.learner[-8:],
                str(item.batches),
                reward,
            )
        console.print(table)
    if view.accounts:
        table = _table("key", "roles", "final", "pending", "")
        for account in view.accounts:
            note = f"excluded: {account.reason}" if account.excluded else ""
            roles = ", ".join(account.roles)
            figures = f"{account.final:.6g}", f"{account.pending:.6g}"
            _row(table, account.peer[-8:], roles, *figures, note)
        console.print(table)


def print_rewards(view: RewardsView) -> None:
    console = Console(highlight=False)
    console.print(f"[bold]{view.final:.6g}[/] credits final, {view.pending:.6g} pending")
    if view.excluded:
        console.print("[red]this key is excluded from the run[/]: primed verdicts says for what")
    table = _table("batch", "state", "why", "waits for", "tokens", "reward", "credits")
    for batch in view.batches:
        left = f" ({duration(batch.deadline_s)} left)" if batch.deadline_s is not None else ""
        _row(
            table,
            str(batch.counter),
            batch.state,
            batch.reason,
            f"{batch.waits_for}{left}",
            str(batch.tokens),
            f"{batch.reward_mean:.3f}",
            f"{batch.credits:.6g}",
        )
    _print_table(table, "no batches yet")


def print_verdicts(view: VerdictsView) -> None:
    table = _table("worker", "batch", "verifier", "outcome", "reason", "measured")
    for item in view.verdicts:
        measured = ", ".join(f"{name} {value:.4g}" for name, value in item.measurements.items())
        who = item.worker[-8:], str(item.counter), item.verifier[-8:]
        _row(table, *who, item.outcome, item.reason, measured)
    _print_table(table, "no verdicts yet")


def trend(run: RunView) -> str:
    """First and last mean reward, in a few characters."""
    if run.reward_last is None:
        return "-"
    if run.reward_first is None:
        return f"{run.reward_last:.3f}"
    return f"{run.reward_first:.3f} → {run.reward_last:.3f}"


def duration(seconds: float) -> str:
    """1.5 -> "2 s", 100 -> "1 min 40 s", 4000 -> "1 h 6 min", 200000 -> "2 d 7 h"."""
    whole = round(max(0.0, seconds))
    units = ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
    for size, name, smaller, smaller_name in units:
        if whole >= size:
            return f"{whole // size} {name} {whole % size // smaller} {smaller_name}"
    return f"{whole} s"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _row(table: Table, *cells: str) -> None:
    table.add_row(*(escape(cell) for cell in cells))


def _print_table(table: Table, otherwise: str) -> None:
    if table.row_count:
        Console(highlight=False).print(table)
    else:
        print(otherwise)
