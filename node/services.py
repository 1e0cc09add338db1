"""What one daemon has once, shared by all runs it takes part in; and the border that keeps the
failure of one service from ending the others."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog
import trio

from primed.node.clocks import Clocks
from primed.node.config import Config
from primed.node.disk import DiskWatch, is_disk_full
from primed.node.metrics import Metrics
from primed.node.paths import Paths
from primed.node.problems import Problems
from primed.node.rates import Rates
from primed.node.store import Store
from primed.node.supervisor import Supervisor
from primed.node.views import WaitView
from primed.node.waits import Waits
from primed.p2p import peerid
from primed.p2p.identity import Identity
from primed.p2p.network import Network
from primed.protocols.by_run import RunServers

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
PROVEN_S = 60.0  # a service that ran so long after its restart is well again
_log = structlog.get_logger("primed.services")


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass
class Services:
    config: Config
    paths: Paths
    identity: Identity
    store: Store
    network: Network
    servers: RunServers
    supervisor: Supervisor
    metrics: Metrics
    waits: Waits = field(default_factory=Waits)
    problems: Problems = field(default_factory=Problems)
    wall_clock: Callable[[], int] = wall_clock_ms  # unix milliseconds
    bootstrap: tuple[str, ...] = ()  # the settings' peers and those of the invite
    clocks: Clocks = field(default_factory=Clocks)
    rates: Rates = field(default_factory=Rates)
    alone: trio.Event = field(default_factory=trio.Event)  # nobody else uses our key: we may sign

    def __post_init__(self) -> None:
        self.disk = DiskWatch(self.paths.root, self.problems)
        self.supervisor.on_no_room = self.disk.note
        self._addresses: tuple[str, ...] = ()
        self.waits.join(self.network.waits)
        self.waits.include(self.supervisor.waits)
        self.waits.include(self._redials)

    def addresses(self) -> tuple[str, ...]:
        """Where others can dial us; the last known ones while the network is down."""
        if self.network.is_running:
            self._addresses = self.network.listen_addresses() or self._addresses
        return self._addresses

    async def keep_running(
        self,
        name: str,
        serve: Callable[[], Awaitable[None]],
        is_fatal: Callable[[Exception], bool] = lambda _: False,
    ) -> None:
        """Run a service until it returns; after a failure say so, pause, and run it again. A fatal
        failure is raised."""
        pause_s = FIRST_PAUSE_S
        while True:
            began = trio.current_time()
            try:
                await serve()
                self.problems.clear(f"{name}-failed")
                return
            except Exception as error:  # the supervised border of a service
                if is_fatal(error):
                    raise
                self._note_failure(name, error, pause_s)
            if trio.current_time() - began > 10 * LONGEST_PAUSE_S:
                pause_s = FIRST_PAUSE_S
            with self.waits.named(f"the {name} service", "its next start: it failed", pause_s):
                await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _redials(self) -> list[WaitView]:
        """Peers to be dialled again, and what went wrong last."""
        return [
            WaitView(
                name=f"peer {peerid.short(redial.peer)}",
                waiting_for=f"the next dial; {redial.failures} failed: {redial.last_error}"[:200],
                since_s=round(redial.since_s, 2),
                deadline_s=round(redial.in_s, 2),
            )
            for redial in self.network.redials()
        ]

    def _note_failure(self, name: str, error: BaseException, pause_s: float) -> None:
        self.metrics.border_errors.labels(name).inc()
        if is_disk_full(error):
            _log.warning("service waits for room on the disk", service=name, error=str(error))
            self.disk.note()
            return
        _log.error("service failed", service=name, exc_info=error)
        while isinstance(error, BaseExceptionGroup):  # what a person can make sense of
            error = error.exceptions[0]
        what = f"the {name} service failed: {error} ({type(error).__name__})"
        fix = f"it starts again in {pause_s:.0f} s; {self.paths.logs}/daemon.log has the details"
        self.problems.raise_(f"{name}-failed", what, fix, lasts_s=pause_s + PROVEN_S)
