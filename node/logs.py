"""Logging: structlog events, as console lines or JSON, on stderr and in logs/daemon.log.

Libraries log through the standard library; their warnings are bridged here. Each event is written
at most LINES_PER_MINUTE times a minute, then counted. Values are shortened and tracebacks carry no
local variables, so that no key can reach a log by way of a variable.
"""

from __future__ import annotations

import logging
import logging.handlers
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, Processor, WrappedLogger

LINES_PER_MINUTE = 30
EVENTS_MAX = 1000  # kinds of event counted at a time
FILE_MAX_BYTES = 8 * 1024 * 1024
FILES = 3
TEXT_MAX = 2000


@contextmanager
def logging_to(
    path: Path | None, *, level: str, style: str, stream: TextIO | None = None
) -> Iterator[None]:
    """Set logging up for this process while entered. `style` is "console" or "json"; the file at
    `path` rotates by size."""
    stream = stream or sys.stderr
    handlers: list[logging.Handler] = [logging.StreamHandler(stream)]
    handlers[0].setFormatter(_formatter(style, has_colours=stream.isatty()))
    if path is not None:
        file = logging.handlers.RotatingFileHandler(
            path, maxBytes=FILE_MAX_BYTES, backupCount=FILES
        )
        file.setFormatter(_formatter(style, has_colours=False))
        handlers.append(file)
    limit = RateLimit()
    root, ours = logging.getLogger(), logging.getLogger("primed")
    before = root.handlers[:], root.level, ours.level
    root.handlers[:] = [_Limited(limit, handlers)]
    root.setLevel(logging.WARNING)
    ours.setLevel(level.upper())
    logging.captureWarnings(True)
    _configure_structlog()
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        ours.setLevel(before[2])
        structlog.reset_defaults()
        for handler in handlers:
            handler.close()


def _configure_structlog() -> None:
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_logger_name,
            ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _formatter(style: str, *, has_colours: bool) -> ProcessorFormatter:
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        shorten,
    ]
    if style == "json":
        last: list[Processor] = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    else:
        console = structlog.dev.ConsoleRenderer(
            colors=has_colours, exception_formatter=structlog.dev.plain_traceback
        )
        last = [console]
    return ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name],
        processors=[ProcessorFormatter.remove_processors_meta, *shared, *last],
    )


def shorten(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Bytes become their first four in hex (enough to recognise a digest, too little to be a key);
    long texts are cut."""
    for name, value in event.items():
        if isinstance(value, (bytes, bytearray, memoryview)):
            event[name] = f"{bytes(value[:4]).hex()}…({len(value)} bytes)"
        elif isinstance(value, str) and len(value) > TEXT_MAX:
            event[name] = f"{value[:TEXT_MAX]}…"
    return event


class RateLimit:
    """Counts lines of each event in windows of one minute."""

    def __init__(self, lines_per_minute: int = LINES_PER_MINUTE) -> None:
        self._lines = lines_per_minute
        self._windows: dict[str, tuple[float, int]] = {}  # event -> (begin, lines seen)

    def admit(self, event: str, now: float) -> int | None:
        """None: do not write this line. Else how many lines were left out before it."""
        begin, seen = self._windows.get(event, (now, 0))
        left_out = 0
        if now - begin >= 60:
            left_out, begin, seen = max(0, seen - self._lines), now, 0
        if event not in self._windows and len(self._windows) >= EVENTS_MAX:
            self._windows.clear()
        self._windows[event] = (begin, seen + 1)
        return left_out if seen < self._lines else None


class _Limited(logging.Handler):
    """Passes records on to the real handlers within the rate limit."""

    def __init__(self, limit: RateLimit, handlers: list[logging.Handler]) -> None:
        super().__init__()
        self._limit = limit
        self._handlers = handlers

    def emit(self, record: logging.LogRecord) -> None:
        is_ours = isinstance(record.msg, dict)
        event = record.msg.get("event") if isinstance(record.msg, dict) else record.msg
        left_out = self._limit.admit(f"{record.name} {event}", record.created)
        if left_out is None:
            return
        if left_out and is_ours:
            record.msg = {**record.msg, "left_out": left_out}  # type: ignore[dict-item]
        elif left_out:
            record.msg = f"{record.msg} (and {left_out} more)"
        for handler in self._handlers:
            handler.handle(record)
