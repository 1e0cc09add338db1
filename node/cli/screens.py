"""What people read: the views as compact screens. Imported only to print one."""

from __future__ import annotations

from collections.abc import Sequence

from primed.node.cli.text import bar, clean, count, duration, print_table, progress_of, styled
from primed.node.local_views import BundleView, DoctorView
from primed.node.views import (
    ChildView,
    PeersView,
    RewardsView,
    RunsView,
    RunView,
    StatusView,
    VerdictsView,
    WaitView,
)

_STYLE = {
    "online": "green",
    "ready": "green",
    "busy": "green",
    "failed": "red",
    "alone": "yellow",
    "connecting": "yellow",
    "restarting": "yellow",
    "warn": "yellow",
    "fail": "red",
}


def print_status(view: StatusView, *, with_waits: bool) -> None:
    network = view.network
    print(f"{styled('primed', 'bold')} {clean(view.version)}  {view.peer}")
    print(f"  up {duration(view.uptime_s)}, process {view.pid}, {clean(view.data_dir)}")
    state, peers = _state(network.state), count(network.peers, "peer")
    print(f"  network {state}, {peers}: {clean(network.reason)}")
    if network.reachability != "unknown":
        evidence = clean(network.reachability_evidence)
        print(f"  {clean(network.reachability)}: {evidence}; {network.reachability_consequence}")
    for name, told in (("upnp", network.upnp), ("mdns", network.mdns)):
        if told not in ("", "off") and name != network.reachability:
            print(f"  {name}: {clean(told)}")
    if view.state != "ok":
        print(f"  {styled(view.state, 'yellow')}")
    for run in view.runs:
        _print_run_line(run)
        _print_transfers(run)
    for role in view.roles:
        print(clean(f"  {role.role} {role.state}" + (f": {role.reason}" if role.reason else "")))
    for child in view.children:
        _print_child(child)
    if with_waits:
        _print_waits(view.waits)
    elif view.waits:
        print(f"  {count(len(view.waits), 'open wait')} (primed status --waits)")
    for problem in view.problems:
        print(f"{styled('problem', 'red')} {clean(problem.what)}\n  do: {clean(problem.fix)}")
    if not view.problems:
        print(styled("no problems", "green"))


def _state(state: str) -> str:
    return styled(state, _STYLE[state]) if state in _STYLE else clean(state)


def _print_run_line(run: RunView) -> None:
    newest = f"step {run.newest.step}" if run.newest else "no version yet"
    lag = f", {count(run.lag_steps, 'step')} behind" if run.lag_steps else ""
    reason = f"  ({clean(run.reason)})" if run.reason else ""
    what = f"{clean(run.state)}, {newest}{lag}, reward {trend(run)}{reason}"
    print(f"{styled(f'run {run.name}', 'bold')} {run.run[:8]}: {what}")
    if run.warning:
        print(f"  {styled(run.warning, 'yellow')}")


def _print_transfers(run: RunView) -> None:
    for each in run.transfers:
        print(f"  {clean(each.name)} {bar(each.here_bytes / each.size_bytes)} {progress_of(each)}")
        print(f"    {clean(each.reason)}")


def _print_child(child: ChildView) -> None:
    work = f" with {child.busy_with} for {child.busy_s:.0f} s" if child.busy_with else ""
    again = f", again in {child.restart_in_s:.0f} s" if child.restart_in_s else ""
    process = f"{clean(child.name)} (process {child.pid or '-'})"
    print(f"  {process} {_state(child.state)}{clean(work)}{again}")
    if child.reason:
        print(f"    {count(child.restarts, 'restart')}; last time it {clean(child.reason)}")


def _print_waits(waits: Sequence[WaitView]) -> None:
    if not waits:
        print("  waits for nothing")
    for wait in waits:
        left = f"at most {duration(wait.deadline_s)} more" if wait.deadline_s > 0 else "overdue"
        times = f"since {duration(wait.since_s)}, {left}"
        print(clean(f"  waits for {wait.name} ({wait.waiting_for}) {times}"))


def print_peers(view: PeersView) -> None:
    rows = [
        (
            peer.peer,
            peer.direction,
            duration(peer.connected_s),
            f"{peer.score:.0f}",
            ", ".join(peer.roles),
            peer.addresses[0] if peer.addresses else "",
            f"{peer.lane}: {peer.lane_reason}" if peer.lane_reason else peer.lane,
        )
        for peer in view.peers
    ]
    columns = ("peer", "way", "since", "score", "roles", "address", "lane")
    print_table(columns, rows, "no peers: primed status says why")


def print_runs(view: RunsView) -> None:
    rows = [
        (
            run.run[:16],
            run.name,
            ", ".join(run.roles) if run.joined else "-",
            run.state,
            run.newest.step if run.newest else "-",
            trend(run),
        )
        for run in view.runs
    ]
    columns = ("run", "name", "joined as", "state", "step", "reward")
    print_table(columns, rows, "no runs: join one with primed runs join <invite>")


def print_run(view: RunView) -> None:
    _print_run_line(view)
    _print_transfers(view)
    print(f"  id {view.run}\n  by {view.originator}")
    roles = ", ".join(view.roles) if view.joined else "not joined"
    batches = f"{view.batches_usable} usable, {view.batches_rejected} rejected batches"
    print(f"  {clean(roles)}; {count(view.versions, 'version')}; {batches}; cut {view.cut}")
    if view.invite:
        print(f"  invite {clean(view.invite)}")
    if view.recent:
        versions = [
            (
                item.step,
                item.version[:8],
                item.learner[-8:],
                item.batches,
                f"{item.reward_mean:.3f}",
            )
            for item in view.recent
        ]
        print_table(("step", "version", "learner", "batches", "reward"), versions, "")
    if view.accounts:
        _print_accounts(view)


def _print_accounts(view: RunView) -> None:
    rows = [
        (
            account.peer[-8:],
            ", ".join(account.roles),
            f"{account.final:.6g}",
            f"{account.pending:.6g}",
            f"excluded: {account.reason}" if account.excluded else "",
        )
        for account in view.accounts
    ]
    print_table(("key", "roles", "final", "pending", ""), rows, "")


def print_rewards(view: RewardsView) -> None:
    print(f"{styled(f'{view.final:.6g}', 'bold')} credits final, {view.pending:.6g} pending")
    if view.excluded:
        print(
            f"{styled('this key is excluded', 'red')} from the run: primed verdicts says for what"
        )
    rows = []
    for batch in view.batches:
        left = f" ({duration(batch.deadline_s)} left)" if batch.deadline_s is not None else ""
        figures = (batch.tokens, f"{batch.reward_mean:.3f}", f"{batch.credits:.6g}")
        why = (batch.reason, f"{batch.waits_for}{left}")
        rows.append((batch.counter, batch.state, *figures, *why))
    columns = ("batch", "state", "tokens", "reward", "credits", "why", "waits for")
    print_table(columns, rows, "no batches yet")


def print_verdicts(view: VerdictsView) -> None:
    rows = []
    for item in view.verdicts:
        measured = ", ".join(f"{name} {value:.4g}" for name, value in item.measurements.items())
        who = (item.worker[-8:], item.counter, item.verifier[-8:])
        rows.append((*who, item.outcome, item.reason, measured))
    columns = ("worker", "batch", "verifier", "outcome", "reason", "measured")
    print_table(columns, rows, "no verdicts yet")


def print_doctor(view: DoctorView) -> None:
    rows = [(check.result, check.id, check.evidence) for check in view.checks]
    print_table(("result", "check", "found"), rows, "")
    for check in view.checks:
        if check.remedy:
            print(f"{styled(check.id, _STYLE[check.result])}: {clean(check.remedy)}")
    warnings, failures = count(view.warnings, "warning"), count(view.failures, "failure")
    print(f"{failures}, {warnings}" + ("" if view.daemon else "; no daemon answered"))


def print_bundle(view: BundleView) -> None:
    print(f"{view.file}  ({view.size_bytes} bytes, {count(len(view.members), 'file')})")
    print("left out or replaced:")
    for line in view.redacted:
        print(f"  {clean(line)}")
    for name in view.dropped:
        print(styled(f"  {name}: this node's key was in it; it is not in the archive", "red"))


def trend(run: RunView) -> str:
    """First and last mean reward, in a few characters."""
    if run.reward_last is None:
        return "-"
    if run.reward_first is None:
        return f"{run.reward_last:.3f}"
    return f"{run.reward_first:.3f} → {run.reward_last:.3f}"
