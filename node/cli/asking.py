"""The commands that ask the running daemon: status, peers, id, rewards, verdicts, runs, stop."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from primed.node.cli.options import COMMON, Common, show_json, split_list
from primed.node.paths import Paths
from primed.node.views import (
    IdentityView,
    PeersView,
    RewardsView,
    RunsView,
    RunView,
    StatusView,
    StoppingView,
    VerdictsView,
)
from primed.p2p.errors import UserError

STOP_S = 30.0
RunArgument = Annotated[str, Parameter(help="Id, the first 8 or more digits of it, or name.")]
LimitOption = Annotated[int, Parameter(help="How many to show, newest first.")]


def status(
    *,
    waits: Annotated[bool, Parameter(negative="", help="Also show every open wait.")] = False,
    common: Common = COMMON,
) -> None:
    """Show how the node is, what it does, and what is wrong."""
    view = common.client.get("status", StatusView)
    if not show_json(view, common):
        from primed.node.cli.screens import print_status

        print_status(view, with_waits=waits)


def peers(*, common: Common = COMMON) -> None:
    """List the connected peers."""
    view = common.client.get("peers", PeersView)
    if not show_json(view, common):
        from primed.node.cli.screens import print_peers

        print_peers(view)


def identity(*, common: Common = COMMON) -> None:
    """Show the peer id and, of a running daemon, the addresses that others can dial."""
    view = _identity(common)
    if not show_json(view, common):
        print(view.peer, *view.addresses, sep="\n")


def _identity(common: Common) -> IdentityView:
    try:
        return common.client.get("id", IdentityView)
    except UserError:
        from primed.node.lock import holder

        paths = common.paths
        if holder(paths.lock) is not None:
            raise
    from primed.p2p import identity, peerid

    peer = peerid.to_text(identity.load(paths.identity).peer)
    return IdentityView(peer=peer, addresses=(), data_dir=str(paths.root))


def rewards(run: RunArgument = "", *, limit: LimitOption = 20, common: Common = COMMON) -> None:
    """Explain what became of this node's batches, and what they earned."""
    view = common.client.get("rewards", RewardsView, run=run, limit=limit)
    if not show_json(view, common):
        from primed.node.cli.screens import print_rewards

        print_rewards(view)


def verdicts(run: RunArgument = "", *, limit: LimitOption = 20, common: Common = COMMON) -> None:
    """List the newest verdicts of a run, with what was measured."""
    view = common.client.get("verdicts", VerdictsView, run=run, limit=limit)
    if not show_json(view, common):
        from primed.node.cli.screens import print_verdicts

        print_verdicts(view)


def list_runs(*, common: Common = COMMON) -> None:
    """List the runs this node knows."""
    view = common.client.get("runs", RunsView)
    if not show_json(view, common):
        from primed.node.cli.screens import print_runs

        print_runs(view)


def show_run(run: RunArgument, *, common: Common = COMMON) -> None:
    """Show a run: versions, accounts, invite."""
    _show_run(common.client.get(f"runs/{run}", RunView), common)


def join(
    target: Annotated[str, Parameter(help="Id of a run, or an invite: primed://…")],
    *,
    roles: Annotated[list[str] | None, Parameter(help="Roles to hold [those that fit].")] = None,
    wait: Annotated[
        bool, Parameter(negative="", help="Show the weights come in; return when they are here.")
    ] = False,
    timeout: Annotated[float, Parameter(help="Seconds that --wait waits at most.")] = 3600.0,
    common: Common = COMMON,
) -> None:
    """Take part in a run. Again for one that is joined: nothing changes, but --wait waits."""
    wanted = split_list(roles) or []
    view = common.client.post("join", RunView, target=target, roles=wanted)
    if wait:
        from primed.node.cli.progress import until_ready

        view = until_ready(common.client, view, timeout, is_shown=not common.json)
    _show_run(view, common)


def publish(
    file: Annotated[Path, Parameter(help="The run's description, in TOML.")],
    *,
    common: Common = COMMON,
) -> None:
    """Sign a run as its originator and offer it to the swarm."""
    if not file.is_file():
        raise UserError(f"there is no file {file}", "give the path of a run file (TOML)")
    path = str(file.absolute())
    _show_run(common.client.post("publish", RunView, spec_path=path), common)


def stop(*, common: Common = COMMON) -> None:
    """Stop the daemon of this data directory and wait until it has ended."""
    view = common.client.post("stop", StoppingView)
    _wait_for_end(common.paths, view.pid)
    if not show_json(view, common):
        print(f"stopped (process {view.pid})")


def _wait_for_end(paths: Paths, pid: int) -> None:
    from primed.node.lock import holder

    deadline = time.monotonic() + STOP_S
    while (found := holder(paths.lock)) is not None and found.pid == pid:
        if time.monotonic() > deadline:
            text = f"the daemon (process {pid}) still runs after {STOP_S:.0f} s"
            raise UserError(text, f"see {paths.logs}/daemon.log, or end it: kill {pid}")
        time.sleep(0.1)


def _show_run(view: RunView, common: Common) -> None:
    if not show_json(view, common):
        from primed.node.cli.screens import print_run

        print_run(view)
