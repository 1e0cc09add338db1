"""The root of the command line: which command is which function."""

from __future__ import annotations

from cyclopts import App

from primed.node.cli import asking, configuring, examining, keys, local

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
app.command(asking.rewards)
app.command(asking.verdicts)
app.command(examining.doctor)
app.command(examining.logs)
app.command(examining.bundle)
app.command(examining.schema)
app.command(local.demo)
app.command(local.version)

ids = App(name="id", help="Show this node's peer id and addresses; export or import its key.")
ids.default(asking.identity)
ids.command(keys.export)
ids.command(keys.import_, name="import")
app.command(ids)

config = App(name="config", help="The settings: show, get, set, validate.")
config.command(configuring.show)
config.command(configuring.get)
config.command(configuring.put, name="set")
config.command(configuring.validate)
app.command(config)

runs = App(name="runs", help="The runs this node knows: list, show, join, publish.")
runs.command(asking.list_runs, name="list")
runs.command(asking.show_run, name="show")
runs.command(asking.join)
runs.command(asking.publish)
app.command(runs)
