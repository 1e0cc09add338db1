"""A swarm on this machine: real daemons, each its own process, identity and data directory.

They know each other only through libp2p on loopback; this module starts and stops the processes
and asks them through the same local API as the CLI. Used by `primed demo` and the daemon tests.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from primed.node.cli.client import Client
from primed.node.paths import Paths
from primed.node.views import IdentityView, RunView, StatusView, View
from primed.p2p import identity, peerid
from primed.p2p.errors import UserError

START_S = 60.0
STOP_S = 15.0
LISTEN = "/ip4/127.0.0.1/tcp/0"
V = TypeVar("V", bound=View)


class LocalNode:
    """One daemon. Its identity exists before it is started, so that a run can list it."""

    def __init__(self, name: str, folder: Path, roles: Sequence[str]) -> None:
        self.name = name
        self.roles = tuple(roles)
        self.paths = Paths(folder)
        self.paths.create()
        self.peer = identity.create(self.paths.identity).peer
        self.client = Client(self.paths)
        self.process: subprocess.Popen[bytes] | None = None
        self._listen = LISTEN
        self._again: Callable[[], None] | None = None

    @property
    def text(self) -> str:
        return peerid.to_text(self.peer)

    def start(
        self,
        bootstrap: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
    ) -> None:
        """`primed start` in the background; its output goes to logs/console.log."""
        self._again = lambda: self.start(bootstrap, environ, options)
        command = [sys.executable, "-m", "primed.node", "start"]
        command += ["--data-dir", str(self.paths.root), "--listen", self._listen]
        for address in bootstrap:
            command += ["--bootstrap", address]
        if self.roles:
            command += ["--roles", ",".join(self.roles)]
        with (self.paths.logs / "console.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(environ or {})},
                start_new_session=True,  # Ctrl-C of the demo reaches the demo only
            )

    def wait_up(self, timeout_s: float = START_S) -> StatusView:
        """The first status. Raises UserError with the end of the log if it does not come up."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not self.is_running():
                break
            try:
                status = self.status()
            except UserError:
                time.sleep(0.1)
                continue
            self._listen = status.network.listen[0].partition("/p2p/")[0]
            return status
        tail = (self.paths.logs / "console.log").read_text(errors="replace")[-2000:]
        raise UserError(f"daemon {self.name} did not come up:\n{tail}", "see its logs folder")

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def get(self, path: str, type_: type[V], **query: str | int) -> V:
        return self.client.get(path, type_, **query)

    def status(self) -> StatusView:
        return self.get("status", StatusView)

    def run(self, name: str) -> RunView:
        return self.get(f"runs/{name}", RunView)

    def join(self, target: str) -> RunView:
        return self.client.post("join", RunView, target=target, roles=list(self.roles))

    def address(self) -> str:
        return self.get("id", IdentityView).addresses[0]

    def kill(self) -> None:
        """kill -9, the daemon only: its children notice and leave by themselves."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def restart(self) -> StatusView:
        """Start it again as it was started, on the same port, and wait until it answers."""
        assert self._again is not None and not self.is_running()
        self._again()
        return self.wait_up()

    def stop(self) -> int | None:
        """Orderly, then by force. The exit status; None if it was not running."""
        if self.process is None:
            return None
        if self.is_running():
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class LocalSwarm:
    """Daemons in one folder; the first one is everybody's bootstrap peer."""

    def __init__(self, folder: Path, roles: Mapping[str, Sequence[str]]) -> None:
        self.folder = folder
        self.nodes = {name: LocalNode(name, folder / name, held) for name, held in roles.items()}

    def __getitem__(self, name: str) -> LocalNode:
        return self.nodes[name]

    def start(self, environ: Mapping[str, Mapping[str, str]] | None = None) -> str:
        """Start all and wait until all answer; returns the bootstrap address."""
        first, *others = self.nodes.values()
        first.start(environ=(environ or {}).get(first.name))
        first.wait_up()
        bootstrap = first.address()
        for node in others:
            node.start([bootstrap], environ=(environ or {}).get(node.name))
        for node in others:
            node.wait_up()
        return bootstrap

    def stop(self) -> None:
        for node in self.nodes.values():
            if node.is_running():
                assert node.process is not None
                node.process.send_signal(signal.SIGTERM)
        for node in self.nodes.values():
            node.stop()
