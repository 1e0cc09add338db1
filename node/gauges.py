"""Keeps the metrics' gauges at what `primed status` would say, and measures the line's rates."""

from __future__ import annotations

import trio

from primed.node.services import Services
from primed.node.shown import Shown
from primed.node.views import RunView

MEASURE_S = 5.0


async def keep_gauges(services: Services, shown: Shown) -> None:
    services.metrics.carried = shown.carried
    while True:
        _observe_rates(services)
        view, metrics = await shown.status(), services.metrics
        metrics.peers.set(view.network.peers)
        metrics.problems.set(len(view.problems))
        metrics.waits.set(len(view.waits))
        metrics.disk_free.set(services.disk.free_bytes)
        for child in view.children:
            metrics.restarts.labels(child.name).set(child.restarts)
        for run in view.runs:
            _observe_run(services, run)
        for name, credits in shown.credits():
            for state, value in credits.items():
                metrics.credits.labels(name, state).set(value)
        await trio.sleep(MEASURE_S)


def _observe_run(services: Services, run: RunView) -> None:
    metrics = services.metrics
    metrics.lag.labels(run.name).set(run.lag_steps)
    metrics.excluded.labels(run.name).set(len(run.excluded))
    metrics.amplification.labels(run.name).set(run.amplification)
    wanted_bytes = sum(each.size_bytes for each in run.transfers)
    here_bytes = sum(each.here_bytes for each in run.transfers)
    metrics.completion.labels(run.name).set(here_bytes / wanted_bytes if wanted_bytes else 1.0)
    metrics.seen.labels(run.name, "usable").set(run.batches_usable)
    metrics.seen.labels(run.name, "rejected").set(run.batches_rejected)
    if run.newest is not None:
        metrics.step.labels(run.name).set(run.newest.step)
        metrics.reward.labels(run.name).set(run.newest.reward_mean)


def _observe_rates(services: Services) -> None:
    traffic = services.network.traffic
    received = (
        traffic.gossip_received_bytes + traffic.stream_received_bytes + traffic.bulk_received_bytes
    )
    sent = traffic.gossip_sent_bytes + traffic.stream_sent_bytes + traffic.bulk_sent_bytes
    is_afar = any(
        not address.startswith(("/ip4/127.", "/ip6/::1/"))
        for info in services.network.peers()
        for address in info.addresses[:1]
    )
    services.rates.observe(received, sent, trio.current_time(), counts=is_afar)
