"""What one daemon has once, shared by all runs it takes part in; and the border that keeps the
failure of one service from ending the others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog
import trio

from primed.node.config import Config
from primed.node.metrics import Metrics
from primed.node.paths import Paths
from primed.node.problems import Problems
from primed.node.store import Store
from primed.node.supervisor import Supervisor
from primed.node.waits import Waits
from primed.p2p.host import Libp2pNetwork
from primed.p2p.identity import Identity
from primed.protocols.by_run import RunServers

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
_log = structlog.get_logger("primed.services")


@dataclass
class Services:
    config: Config
    paths: Paths
    identity: Identity
    store: Store
    network: Libp2pNetwork
    servers: RunServers
    supervisor: Supervisor
    metrics: Metrics
    waits: Waits = field(default_factory=Waits)
    problems: Problems = field(default_factory=Problems)

    async def keep_running(self, name: str, serve: Callable[[], Awaitable[None]]) -> None:
        """Run a service until it returns; after a failure say so, pause, and run it again."""
        pause_s = FIRST_PAUSE_S
        while True:
            began = trio.current_time()
            try:
                await serve()
                self.problems.clear(f"{name}-failed")
                return
            except Exception as error:  # noqa: BLE001  the supervised border of a service
                self._note_failure(name, error, pause_s)
            if trio.current_time() - began > 10 * LONGEST_PAUSE_S:
                pause_s = FIRST_PAUSE_S
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _note_failure(self, name: str, error: BaseException, pause_s: float) -> None:
        _log.error("service failed", service=name, exc_info=error)
        self.metrics.border_errors.labels(name).inc()
        while isinstance(error, BaseExceptionGroup):  # what a person can make sense of
            error = error.exceptions[0]
        what = f"the {name} service failed: {error} ({type(error).__name__})"
        fix = f"it starts again in {pause_s:.0f} s; {self.paths.logs}/daemon.log has the details"
        self.problems.raise_(f"{name}-failed", what, fix)
