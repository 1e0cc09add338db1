"""Prometheus metrics of one daemon, all named primed_*, in a registry of their own.

Counted by whoever notices; network traffic is read from the network when somebody asks. Served at
`metrics_listen`, if that is set, on /metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from primed.node.version import installed_version
from primed.p2p.network import Traffic

SECONDS = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000)
Carried = Iterable[tuple[str, str, str, int]]  # (run, lane, direction, bytes of leaves)


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.child_stops = self._counter(
            "primed_child_stops", "Children that stopped, by kind and reason", "child", "reason"
        )
        self.border_errors = self._counter(
            "primed_border_errors", "Exceptions caught at a supervised border", "border"
        )
        self.batches = self._counter(
            "primed_batches", "Own batches, by state reached", "run", "state"
        )
        self.verdicts = self._counter(
            "primed_verdicts", "Verdicts given, by outcome and reason", "run", "outcome", "reason"
        )
        self.peers = Gauge("primed_peers", "Connected peers", registry=self.registry)
        self.step = self._gauge("primed_policy_step", "Step of the newest policy version", "run")
        self.reward = self._gauge("primed_reward_mean", "Its mean reward", "run")
        self.lag = self._gauge("primed_lag_steps", "Newest step less the step held here", "run")
        self.problems = Gauge("primed_problems", "Open problems", registry=self.registry)
        self.waits = Gauge("primed_waits_open", "Open waits", registry=self.registry)
        self.stuck = self._counter("primed_waits_stuck", "Waits open for twice their time")
        self.network_restarts = self._counter("primed_network_restarts", "Crashes of the network")
        self.restarts = self._gauge("primed_child_restarts", "Restarts of a child", "child")
        self.excluded = self._gauge("primed_excluded_workers", "Excluded for fraud", "run")
        self.seen = self._gauge("primed_run_batches", "Batches that had an outcome", "run", "state")
        self.credits = self._gauge("primed_credits", "Own credits in the ledger", "run", "state")
        self.payloads = self._counter(
            "primed_payloads", "Payloads, by what became of them", "run", "outcome"
        )
        self.payload_seconds = Histogram(
            "primed_payload_seconds",
            "From expecting a payload until it is complete",
            ["run"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.payload_stalls = self._counter(
            "primed_payload_stalls",
            "Payloads that did not get on, by what did not come",
            "run",
            "reason",
        )
        self.completion = self._gauge(
            "primed_payload_completion", "Share that is here of what is on its way", "run"
        )
        self.amplification = self._gauge(
            "primed_payload_amplification", "Leaf bytes that came, for each new one", "run"
        )
        self.carried: Callable[[], Carried] = tuple
        self.registry.register(_PayloadCollector(self))
        self.disk_free = Gauge(
            "primed_disk_free_bytes", "Room for the data directory", registry=self.registry
        )
        self._gauge("primed_build_info", "Always 1", "version").labels(installed_version()).set(1)
        ProcessCollector("primed", registry=self.registry)

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(name, documentation, labels, registry=self.registry)

    def _gauge(self, name: str, documentation: str, *labels: str) -> Gauge:
        return Gauge(name, documentation, labels, registry=self.registry)

    def watch_traffic(self, traffic: Callable[[], Traffic]) -> None:
        """Include the network's counts from now on."""
        self.registry.register(_TrafficCollector(traffic))

    def watch_log(self, lines_left_out: Callable[[], int]) -> None:
        """Include how many log lines the rate limit kept back."""
        self.registry.register(_LeftOutCollector(lines_left_out))

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _TrafficCollector(Collector):
    def __init__(self, traffic: Callable[[], Traffic]) -> None:
        self._traffic = traffic

    def collect(self) -> Iterable[Metric]:
        now = self._traffic()
        for name, value in vars(now).items():
            if isinstance(value, int):
                yield CounterMetricFamily(f"primed_{name}", name.replace("_", " "), value)
        extra = CounterMetricFamily("primed_network", "Other network counts", labels=["what"])
        for what, value in now.extra.items():
            extra.add_metric([what], value)
        yield extra


class _PayloadCollector(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        labels = ["run", "lane", "direction"]
        family = CounterMetricFamily("primed_payload_bytes", "Leaf bytes by lane", labels=labels)
        for run, lane, direction, count_bytes in self._metrics.carried():
            family.add_metric([run, lane, direction], count_bytes)
        yield family


class _LeftOutCollector(Collector):
    def __init__(self, lines_left_out: Callable[[], int]) -> None:
        self._lines_left_out = lines_left_out

    def collect(self) -> Iterable[Metric]:
        name, text = "primed_log_lines_left_out", "Log lines that were only counted"
        yield CounterMetricFamily(name, text, self._lines_left_out())


def metrics_app(metrics: Metrics) -> Starlette:
    """For `node.serving` behind a `tcp_listener`."""

    async def show(_: Request) -> Response:
        return Response(metrics.text(), headers={"content-type": CONTENT_TYPE_LATEST})

    return Starlette(routes=[Route("/metrics", show)])
