"""The commands that work without a daemon: init, start, demo, version. Heavy imports are inside."""

from __future__ import annotations

import functools
import gc
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from primed.node.cli.options import COMMON, Common, print_json, split_list
from primed.node.local_views import InitView, ReleaseView
from primed.p2p.errors import UserError

if TYPE_CHECKING:
    from primed.node.views import StatusView

_ADDRESS = "Multiaddr; may be given several times or separated by commas."
Listen = Annotated[list[str] | None, Parameter(help=f"Where to listen. {_ADDRESS}")]
Bootstrap = Annotated[list[str] | None, Parameter(help=f"Peers to find the swarm by. {_ADDRESS}")]
Roles = Annotated[list[str] | None, Parameter(help="Roles to hold, or auto.")]
Profile = Annotated[
    Literal["home", "server", "lowpower"] | None,
    Parameter(help="How much of machine and network to take."),
]
Threads = Annotated[int | None, Parameter(help="CPU threads of each child process.")]


def init(
    *,
    listen: Listen = None,
    bootstrap: Bootstrap = None,
    roles: Roles = None,
    profile: Profile = None,
    threads: Threads = None,
    common: Common = COMMON,
) -> None:
    """Make the data directory: an identity and a settings file."""
    from primed.node.config import load_config, write_config
    from primed.p2p import identity, peerid

    paths = common.paths
    chosen = {
        "listen": split_list(listen),
        "bootstrap": split_list(bootstrap),
        "roles": split_list(roles),
        "profile": profile,
        "threads": threads,
    }
    paths.create()
    load_config(paths, chosen)  # wrong values are found before anything is written
    write_config(paths, chosen)
    is_new = not paths.identity.exists()
    peer = peerid.to_text((identity.create if is_new else identity.load)(paths.identity).peer)
    if common.json:
        print_json(InitView(peer=peer, data_dir=str(paths.root), settings=str(paths.config)))
        return
    print(f"peer id   {peer}\nsettings  {paths.config}\nnext      primed start{_option(common)}")


def start(
    *,
    join: Annotated[
        str | None, Parameter(help="An invite: primed://[run id]@<multiaddr>,…")
    ] = None,
    listen: Listen = None,
    bootstrap: Bootstrap = None,
    roles: Roles = None,
    profile: Profile = None,
    threads: Threads = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None, Parameter(help="Least level logged.")
    ] = None,
    log_format: Annotated[
        Literal["console", "json"] | None, Parameter(help="Form of the log on stderr.")
    ] = None,
    metrics_listen: Annotated[str | None, Parameter(help="host:port for Prometheus [off].")] = None,
    common: Common = COMMON,
) -> None:
    """Run the node in the foreground until `primed stop` or Ctrl-C.

    Without a swarm given it forms a swarm of one and prints the invite that others join by.
    """
    flags = {
        "listen": split_list(listen),
        "bootstrap": split_list(bootstrap),
        "roles": split_list(roles),
        "profile": profile,
        "threads": threads,
        "log_level": log_level,
        "log_format": log_format,
        "metrics_listen": metrics_listen,
    }
    _run_daemon(common, flags, join)


def _run_daemon(common: Common, flags: dict[str, Any], join: str | None) -> None:
    from primed.node.config import load_config, with_free_port
    from primed.node.invite import parse_invite
    from primed.node.lock import held
    from primed.node.logs import logging_to
    from primed.p2p import identity

    gc.enable()
    paths = common.paths
    config = with_free_port(load_config(paths, flags))
    invite = parse_invite(join) if join is not None else None
    paths.create()
    with held(paths.lock, time.time_ns() // 1_000_000):
        make = identity.load if paths.identity.exists() else identity.create
        me = make(paths.identity)
        log_path = paths.logs / "daemon.log"
        with logging_to(log_path, level=config.log_level, style=config.log_format) as limit:
            from primed.node.daemon import run_daemon  # libp2p: a second of CPU

            announce = functools.partial(_announce, common)
            run_daemon(config, paths, me, invite, announce, lambda: limit.total_left_out)


def _announce(common: Common, view: StatusView) -> None:
    """Called by the daemon once it is up."""
    if common.json:
        print_json(view)
    else:
        print(f"primed {view.version} is up: {view.peer}")
        for address in view.network.listen:
            print(f"  listening on {address}")
        print(f"  network: {view.network.state} ({view.network.reason})")
        if view.invite:
            print(f"  others join with: primed start --join {view.invite}")
        print(f"  how it is doing: primed status{_option(common)}")
    sys.stdout.flush()


def _option(common: Common) -> str:
    return f" --data-dir {common.data_dir}" if common.data_dir else ""


def demo(
    *,
    seed: Annotated[int, Parameter(help="Seed of the toy model and of the run.")] = 0,
    folder: Annotated[
        Path | None, Parameter(help="Keep the data directories here [a temporary folder].")
    ] = None,
    common: Common = COMMON,
) -> int:
    """Watch a small swarm of real daemons learn on this machine, and catch a cheat."""
    from primed.node.demo import main

    if common.data_dir is not None:
        raise UserError("the demo makes its own data directories", "use --folder to keep them")
    gc.enable()
    return main(seed=seed, folder=folder, as_json=common.json)


def version(*, common: Common = COMMON) -> None:
    """Print the version."""
    text = installed_version()
    if common.json:
        print_json(ReleaseView(version=text))
    else:
        print(text)


def installed_version() -> str:
    from importlib.metadata import version as version_of

    return version_of("primed-node")
