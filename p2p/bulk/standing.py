"""Standing: with which peers the bulk lane failed lately, why, and until when streams are used.

Pure. A failure doubles the pause, success ends it; "busy" is no failure.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from primed.p2p import limits


@dataclass
class _Trouble:
    reason: str
    until: float
    failures: int


class Standing:
    def __init__(self) -> None:
        self._troubles: OrderedDict[bytes, _Trouble] = OrderedDict()

    def why_not(self, peer: bytes, now: float) -> str:
        trouble = self._troubles.get(peer)
        if trouble is None or now >= trouble.until:
            return ""
        return f"{trouble.reason}; again in {trouble.until - now:.0f} s"

    def failed(self, peer: bytes, reason: str, now: float) -> None:
        failures = self._failures(peer)
        pause_s = min(limits.BULK_PAUSE_FIRST_S * 2.0**failures, limits.BULK_PAUSE_LAST_S)
        self._note(peer, _Trouble(reason, now + pause_s, failures + 1))

    def busy(self, peer: bytes, reason: str, retry_s: float, now: float) -> None:
        self._note(peer, _Trouble(reason, now + retry_s, self._failures(peer)))

    def worked(self, peer: bytes) -> None:
        self._troubles.pop(peer, None)

    def _failures(self, peer: bytes) -> int:
        trouble = self._troubles.get(peer)
        return min(trouble.failures, 32) if trouble else 0

    def _note(self, peer: bytes, trouble: _Trouble) -> None:
        self._troubles.pop(peer, None)
        self._troubles[peer] = trouble
        if len(self._troubles) > limits.PEERS_KNOWN:
            self._troubles.popitem(last=False)
