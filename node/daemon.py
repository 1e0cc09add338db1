"""The daemon: opens everything, runs the network and the runs it takes part in, closes everything.

`run_daemon` is the blocking entry point of `primed start`. Its order at start is the order in which
things depend on each other: store, children's supervisor, network, hello, local API, joined runs.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import AsyncExitStack

import msgspec
import structlog
import trio

from primed.node.api import make_app
from primed.node.config import Config
from primed.node.invite import Invite
from primed.node.joining import Joining
from primed.node.metrics import Metrics, metrics_app
from primed.node.paths import Paths
from primed.node.services import Services
from primed.node.serving import serving, tcp_listener, unix_listener
from primed.node.shown import Shown
from primed.node.store import Store
from primed.node.supervisor import Supervisor
from primed.node.views import StatusView
from primed.p2p import limits
from primed.p2p.host import Libp2pNetwork
from primed.p2p.identity import Identity
from primed.protocols.by_run import RunServers
from primed.protocols.verdicts import Evidence, Verdicts

MEASURE_S = 5.0
_log = structlog.get_logger("primed.daemon")


def run_daemon(
    config: Config,
    paths: Paths,
    identity: Identity,
    invite: Invite | None,
    announce: Callable[[StatusView], None],
) -> None:
    """Run until stopped. `announce` gets the first status once the node is up."""
    trio.run(_main, config, paths, identity, invite, announce)


async def _main(
    config: Config,
    paths: Paths,
    identity: Identity,
    invite: Invite | None,
    announce: Callable[[StatusView], None],
) -> None:
    store = Store(paths.database)
    try:
        await Daemon(config, paths, identity, store).serve(invite, announce)
    finally:
        store.close()


class Daemon:
    def __init__(self, config: Config, paths: Paths, identity: Identity, store: Store) -> None:
        metrics = Metrics()
        network = Libp2pNetwork(
            identity,
            profile=_limits(config),
            book_path=paths.root / "peers.db",
        )
        supervisor = Supervisor(
            paths.logs,
            on_stop=lambda child, stop: metrics.child_stops.labels(
                child.configure.kind, stop.kind
            ).inc(),
        )
        self._network = network
        self._services = Services(
            config=config,
            paths=paths,
            identity=identity,
            store=store,
            network=network,
            servers=RunServers(network),
            supervisor=supervisor,
            metrics=metrics,
        )
        metrics.watch_traffic(lambda: network.traffic)
        Verdicts(network, self._evidence)
        self._stop = trio.Event()

    async def serve(self, invite: Invite | None, announce: Callable[[StatusView], None]) -> None:
        services, config = self._services, self._services.config
        bootstrap = (*config.bootstrap, *(invite.addresses if invite else ()))
        async with trio.open_nursery() as nursery:
            joining = Joining(services, nursery)
            shown = Shown(services, joining, self._stop)
            app = make_app(shown)
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(services.supervisor.running())
                await stack.enter_async_context(self._network.running(config.listen, bootstrap))
                listener = unix_listener(services.paths.socket)
                await stack.enter_async_context(serving(app, listener))
                if config.metrics_listen:
                    exposed = serving(
                        metrics_app(services.metrics), tcp_listener(config.metrics_listen)
                    )
                    await stack.enter_async_context(exposed)
                nursery.start_soon(services.keep_running, "hello", joining.hello.run)
                await joining.rejoin()
                announce(await shown.status())
                if invite is not None and invite.run is not None:
                    nursery.start_soon(joining.join_invited, invite)
                nursery.start_soon(self._until_signal)
                nursery.start_soon(self._measure, shown)
                await self._stop.wait()
                _log.info("stopping")
                nursery.cancel_scope.cancel()

    def _evidence(self, run: bytes, commitment: bytes) -> Evidence | None:
        """What this node's own verdict on a commitment rests on."""
        kept = self._services.store.evidence.about(run, commitment)
        return msgspec.msgpack.decode(kept[-1], type=Evidence) if kept else None

    async def _measure(self, shown: Shown) -> None:
        """Keep the gauges at what `primed status` would say."""
        while True:
            view, metrics = await shown.status(), self._services.metrics
            metrics.peers.set(view.network.peers)
            metrics.problems.set(len(view.problems))
            for run in view.runs:
                metrics.lag.labels(run.name).set(run.lag_steps)
                if run.newest is not None:
                    metrics.step.labels(run.name).set(run.newest.step)
                    metrics.reward.labels(run.name).set(run.newest.reward_mean)
            await trio.sleep(MEASURE_S)

    async def _until_signal(self) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
            async for number in received:
                _log.info("signal", number=number)
                self._stop.set()
                return


def _limits(config: Config) -> limits.Profile:
    """Connection limits of the profile; peers on one machine share an address."""
    profile = limits.Profile(connections=config.max_connections)
    on_loopback = all(address.startswith("/ip4/127.") for address in config.listen)
    return profile.on_one_machine() if on_loopback else profile
