"""The topics we follow, each with its validator and receiver, and the border around both."""

from __future__ import annotations

import logging
from typing import NamedTuple

import trio

from primed.p2p.network import Acceptance, Deliver, Traffic, Validator

_log = logging.getLogger(__name__)


class _Topic(NamedTuple):
    validate: Validator
    deliver: Deliver


class Topics:
    """`changed` is set whenever the names change; gossip follows them."""

    def __init__(self, traffic: Traffic) -> None:
        self._topics: dict[str, _Topic] = {}
        self._traffic = traffic
        self.changed = trio.Event()

    def names(self) -> frozenset[str]:
        return frozenset(self._topics)

    def set(self, name: str, validate: Validator, deliver: Deliver) -> None:
        self._topics[name] = _Topic(validate, deliver)
        self.changed.set()

    def remove(self, name: str) -> None:
        self._topics.pop(name, None)
        self.changed.set()

    def judge(self, sender: bytes, name: str, data: bytes) -> Acceptance:
        """The validator's word on a message; IGNORE if it fails."""
        topic = self._topics.get(name)
        if topic is None:
            return Acceptance.IGNORE
        try:
            return topic.validate(sender, data)
        except Exception:  # noqa: BLE001  the border: our bug, not the sender's fault
            self._traffic.handler_errors += 1
            _log.exception("the validator of %s failed", name)
            return Acceptance.IGNORE

    def deliver(self, sender: bytes, name: str, data: bytes) -> None:
        if topic := self._topics.get(name):
            try:
                topic.deliver(sender, data)
            except Exception:  # noqa: BLE001  the border: as above
                self._traffic.handler_errors += 1
                _log.exception("a delivery of %s failed", name)
