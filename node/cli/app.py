"""The root of the command line: which command is which function."""

from __future__ import annotations

from cyclopts import App

from primed.node.cli import asking, local

app = App(
    name="primed",
    help="Peer-to-peer node for verifiable reinforcement learning of language models.",
    version=local.installed_version,
    help_format="plaintext",
)
app.command(local.init)
app.command(local.start)
app.command(asking.stop)
app.command(asking.status)
app.command(asking.peers)
app.command(asking.identity, name="id")
app.command(asking.rewards)
app.command(asking.verdicts)
app.command(local.demo)
app.command(local.version)

runs = App(name="runs", help="The runs this node knows: list, show, join, publish.")
runs.command(asking.list_runs, name="list")
runs.command(asking.show_run, name="show")
runs.command(asking.join)
runs.command(asking.publish)
app.command(runs)
