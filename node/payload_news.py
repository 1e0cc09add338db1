"""What becomes of a run's payloads, told to people and machines: names, log lines, metrics, and a full
disk. Used by `participation`; `shown` asks for the names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog
import trio

from primed.node.disk import DiskWatch, is_disk_full
from primed.node.metrics import Metrics
from primed.protocols.shardcast import News, Shardcast
from primed.verify.lineage import Lineages, payload_name
from primed.verify.statements import Manifest, Payload

LOG_S = 30.0
_log = structlog.get_logger("primed.payloads")


class PayloadNews:
    """retained: the manifests whose payloads are kept or on their way."""

    def __init__(
        self,
        run: str,
        shardcast: Shardcast,
        lineages: Lineages,
        retained: Callable[[], Iterable[Manifest]],
        metrics: Metrics,
        disk: DiskWatch,
    ) -> None:
        self._run = run
        self._shardcast = shardcast
        self._lineages = lineages
        self._retained = retained
        self._metrics = metrics
        self._disk = disk
        shardcast.on_news(self._note)

    def names(self) -> dict[Payload, str]:
        """What people call the payloads that are kept or on their way."""
        names: dict[Payload, str] = {}
        for manifest in self._retained():
            parents = manifest.parents
            start = self._lineages.step_of(parents[0]) if parents else None
            if manifest.delta is not None:
                names[manifest.delta] = payload_name(start, manifest.step)
            if manifest.snapshot is not None:
                names[manifest.snapshot] = payload_name(None, manifest.step)
        return names

    async def run(self) -> None:
        """Log what is on its way now and then, for who watches `primed start`: it may take hours."""
        while True:
            await trio.sleep(LOG_S)
            under_way = self._shardcast.under_way()
            names = self.names() if under_way else {}
            for payload, at in under_way.items():
                words = f"{at.words(payload.size_bytes)}; {at.reason}"
                _log.info("payload on its way", payload=_named(payload, names), progress=words)

    def _note(self, news: News) -> None:
        what = _named(news.payload, self.names())
        if news.what == "stalled":
            self._metrics.payload_stalls.labels(self._run, news.detail).inc()
            _log.warning("payload stalled", payload=what, waits_for=news.detail)
        elif news.what == "disk":
            self._metrics.payload_stalls.labels(self._run, "disk").inc()
            if news.error is not None and is_disk_full(news.error):
                self._disk.note()
            _log.warning("payload not written", payload=what, reason=news.detail)
        else:
            self._metrics.payloads.labels(self._run, news.what).inc()
            if news.what == "complete":
                self._metrics.payload_seconds.labels(self._run).observe(news.seconds)
            _log.info("payload " + news.what, payload=what, seconds=round(news.seconds, 1))


def _named(payload: Payload, names: dict[Payload, str]) -> str:
    return names.get(payload, f"payload {payload.root.hex()[:8]}")
