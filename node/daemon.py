"""The daemon: opens everything, runs the network and the runs it takes part in, closes everything.

`run_daemon` is the blocking entry point of `primed start`. Its order at start is the order in which
things depend on each other: store, children's supervisor, network, hello, local API, joined runs.
"""

from __future__ import annotations

import gc
import resource
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial

import msgspec
import structlog
import trio

from primed.node import sessions
from primed.node.api import make_app
from primed.node.config import LEAST_UPLOAD_CAP, Config, is_on_loopback
from primed.node.doppelganger import Doppelganger, Doubles
from primed.node.gauges import keep_gauges
from primed.node.hosting import hosted
from primed.node.invite import Invite
from primed.node.joining import Joining
from primed.node.metrics import Metrics, metrics_app
from primed.node.paths import Paths
from primed.node.services import Services
from primed.node.serving import serving, tcp_listener, unix_listener
from primed.node.shown import Shown
from primed.node.store import Store
from primed.node.supervisor import Supervisor
from primed.node.systemd import Systemd
from primed.node.views import StatusView
from primed.node.watchdog import Watchdog
from primed.p2p import limits
from primed.p2p.host import Libp2pNetwork
from primed.p2p.hours import QuietHours
from primed.p2p.identity import Identity
from primed.p2p.uplink import Uplink
from primed.p2p.uploads import Uploads
from primed.protocols.by_run import RunServers
from primed.protocols.disk import on_disk
from primed.protocols.verdicts import Evidence, Verdicts

_log = structlog.get_logger("primed.daemon")


def run_daemon(
    config: Config,
    paths: Paths,
    identity: Identity,
    invite: Invite | None,
    announce: Callable[[StatusView], None],
    lines_left_out: Callable[[], int] = lambda: 0,
) -> None:
    """Run until stopped. `announce` gets the first status once the node is up; `lines_left_out` is
    how many lines the log kept back. The data directory's lock must be held."""
    gc.freeze()  # what was imported stays: to look through it again costs the loop up to 50 ms
    trio.run(_main, config, paths, identity, invite, announce, lines_left_out)


async def _main(
    config: Config,
    paths: Paths,
    identity: Identity,
    invite: Invite | None,
    announce: Callable[[StatusView], None],
    lines_left_out: Callable[[], int],
) -> None:
    store = Store(paths.database)
    try:
        daemon = Daemon(config, paths, identity, store)
        daemon.services.metrics.watch_log(lines_left_out)
        await daemon.serve(invite, announce)
    finally:
        store.close()


class Daemon:
    def __init__(self, config: Config, paths: Paths, identity: Identity, store: Store) -> None:
        metrics = Metrics()
        network = Libp2pNetwork(
            identity,
            profile=_limits(config),
            book_path=paths.root / "peers.db",
            announce=config.announce,
            uploads=_uploads(config),
            offers_relay=config.profile == "server" or "relay" in config.roles,
            mdns=config.mdns,
            upnp=config.upnp,
        )
        supervisor = Supervisor(
            paths.logs,
            on_stop=lambda child, stop: metrics.child_stops.labels(
                child.configure.kind, stop.kind
            ).inc(),
        )
        self._network = network
        self.services = Services(
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
        self._systemd = Systemd()
        self._session, former = sessions.begin(paths.sessions)
        self._doubles = Doubles(self._session, former)

    async def serve(self, invite: Invite | None, announce: Callable[[StatusView], None]) -> None:
        services, config = self.services, self.services.config
        bootstrap = (*config.bootstrap, *(invite.addresses if invite else ()))
        services.bootstrap = bootstrap
        async with trio.open_nursery() as nursery:
            joining = Joining(services, nursery, self._session, self._doubles)
            shown = Shown(services, joining, self._stop)
            errors = services.metrics.border_errors.labels("api")
            app = make_app(shown, errors.inc)
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(services.supervisor.running())
                await stack.enter_async_context(hosted(services, config.listen, bootstrap))
                listener = unix_listener(services.paths.socket)
                await stack.enter_async_context(serving(app, listener))
                if config.metrics_listen:
                    exposed = serving(
                        metrics_app(services.metrics), tcp_listener(config.metrics_listen)
                    )
                    await stack.enter_async_context(exposed)
                self._watch_over(nursery, joining, shown)
                await joining.rejoin()
                announce(await shown.status())
                if invite is not None and invite.run is not None:
                    join = partial(joining.join_invited, invite)
                    nursery.start_soon(services.keep_running, "joining", join)
                nursery.start_soon(self._until_signal)
                self._systemd.notify("READY=1")
                await self._stop.wait()
                self._systemd.notify("STOPPING=1")
                _log.info("stopping")
                nursery.cancel_scope.cancel()

    def _evidence(self, run: bytes, commitment: bytes) -> Evidence | None:
        """What this node's own verdict on a commitment rests on."""
        kept = self.services.store.evidence.about(run, commitment)
        return msgspec.msgpack.decode(kept[-1], type=Evidence) if kept else None

    def _watch_over(self, nursery: trio.Nursery, joining: Joining, shown: Shown) -> None:
        """Start what every daemon does, whatever runs it takes part in."""
        services, network = self.services, self._network
        double = Doppelganger(
            joining.hello,
            self._doubles,
            services.waits,
            services.problems,
            network.peer,
            services.alone,
        )

        def peers() -> list[bytes]:
            return [info.peer for info in network.peers()]

        def is_alone() -> bool:
            return network.state()[0] == "alone"

        async def make_sure() -> None:
            await double.make_sure(peers, network.meet_nearest, is_alone, services.wall_clock)

        dog = Watchdog(
            services.waits,
            services.problems,
            services.paths.logs,
            on_stuck=services.metrics.stuck.inc,
        )
        nursery.start_soon(double.watch)
        nursery.start_soon(self._systemd.beat)
        for name, serve in (
            ("session", partial(on_disk, sessions.note, services.paths.sessions, self._session)),
            ("hello", joining.hello.run),
            ("doppelganger", make_sure),
            ("disk", services.disk.run),
            ("metrics", lambda: keep_gauges(services, shown)),
            ("watchdog", dog.run),
        ):
            nursery.start_soon(services.keep_running, name, serve)

    async def _until_signal(self) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
            async for number in received:
                _log.info("signal", number=number)
                self._stop.set()
                return


def _uploads(config: Config) -> Uploads:
    """The user's cap; else, but for a server, a share of what the line carries."""
    quiet = QuietHours.parse(config.quiet_hours) if config.quiet_hours else None
    if config.upload_cap_bytes_per_s:
        return Uploads(config.upload_cap_bytes_per_s, quiet)
    is_free = config.profile == "server" or is_on_loopback(config.listen)
    return Uploads(quiet=quiet, uplink=None if is_free else Uplink(LEAST_UPLOAD_CAP))


def _limits(config: Config) -> limits.Profile:
    """Connection limits of the profile; peers on one machine share an address."""
    own = config.limits
    profile = limits.Profile(
        connections=own.connections,
        target_peers=own.target_peers,
        bulk_up=own.bulk_up,
        bulk_down=own.bulk_down,
    )
    profile = profile.within(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    return profile.on_one_machine() if is_on_loopback(config.listen) else profile
