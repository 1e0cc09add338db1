"""Lines that peers can cause are logged so many times a minute; the rest is counted and told."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable


class LogValve:
    """In front of one logger. `clock` is monotonic."""

    def __init__(
        self,
        logger: logging.Logger,
        lines_per_min: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._lines_per_min = lines_per_min
        self._clock = clock
        self._since_s = clock()
        self._lines = 0

    def log(self, level: int, message: str, *values: object) -> None:
        if self._clock() - self._since_s >= 60.0:
            self._begin_minute()
        self._lines += 1
        if self._lines <= self._lines_per_min:
            self._logger.log(level, message, *values)
        elif self._lines == self._lines_per_min + 1:
            self._logger.warning("more lines like the last are only counted for a minute")

    def _begin_minute(self) -> None:
        if (held_back := self._lines - self._lines_per_min) > 0:
            self._logger.warning("%d lines of peers' faults were not logged", held_back)
        self._since_s, self._lines = self._clock(), 0
