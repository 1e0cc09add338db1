"""Logging: structlog events, as console lines or JSON on stderr, and as JSON in logs/daemon.log.

Libraries log through the standard library; their warnings are bridged here. Each event is written
at most LINES_PER_MINUTE times a minute and all events below error ALL_LINES_PER_MINUTE times, then
they are counted, and the count is written. Values are shortened and tracebacks carry no local
variables, so that no key can reach a log by way of a variable.
"""

from __future__ import annotations

import logging
import logging.handlers
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, Processor, WrappedLogger

LINES_PER_MINUTE = 30
ALL_LINES_PER_MINUTE = 600
EVENTS_MAX = 1000  # kinds of event counted at a time; the rest is one kind
OTHER_EVENTS = "other events"
FILE_MAX_BYTES = 8 * 1024 * 1024
FILES = 3
TEXT_MAX = 2000


@contextmanager
def logging_to(
    path: Path | None, *, level: str, style: str, stream: TextIO | None = None
) -> Iterator[RateLimit]:
    """Set logging up for this process while entered. `style` of the stream is "console" or "json";
    the file at `path` holds JSON and rotates by size. Yields what counts the lines left out."""
    stream = stream or sys.stderr
    limit = RateLimit()
    console = _Console(stream)
    console.setFormatter(_formatter(style, has_colours=stream.isatty()))
    handlers: list[_Console | _File] = [console]
    if path is not None:
        file = _File(path, maxBytes=FILE_MAX_BYTES, backupCount=FILES)
        file.setFormatter(_formatter("json", has_colours=False))
        handlers.append(file)
    for handler in handlers:
        handler.limit = limit
    root, ours = logging.getLogger(), logging.getLogger("primed")
    before = root.handlers[:], root.level, ours.level
    limited = _Limited(limit, handlers)
    root.handlers[:] = [limited]
    root.setLevel(logging.WARNING)
    ours.setLevel(level.upper())
    logging.captureWarnings(True)
    _configure_structlog()
    try:
        yield limit
    finally:
        logging.captureWarnings(False)
        limited.tell_left_out(limit.end())
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
    """Counts lines of each event, and of all, in minutes. `total_left_out` since the start."""

    def __init__(
        self,
        lines_per_minute: int = LINES_PER_MINUTE,
        all_lines_per_minute: int = ALL_LINES_PER_MINUTE,
    ) -> None:
        self.total_left_out = 0
        self._lines = lines_per_minute
        self._all_lines = all_lines_per_minute
        self._began = 0.0
        self._written = 0
        self._seen: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()

    def admit(self, event: str, *, is_error: bool = False) -> bool:
        """Whether to write a line of this event. An error is not kept back by other events."""
        if event not in self._seen and len(self._seen) >= EVENTS_MAX:
            event = OTHER_EVENTS
        self._seen[event] += 1
        is_room = is_error or self._written < self._all_lines
        if self._seen[event] <= self._lines and is_room:
            self._written += 1
            return True
        self._left_out[event] += 1
        self.total_left_out += 1
        return False

    def minute_over(self, now: float) -> dict[str, int]:
        """At the first line of a new minute: how many lines of each event the last one left out."""
        return self.end(now) if now - self._began >= 60 else {}

    def end(self, now: float = 0.0) -> dict[str, int]:
        """Begin anew; how many lines of each event were left out."""
        told = dict(self._left_out.most_common())
        self._began, self._written = now, 0
        self._seen.clear()
        self._left_out.clear()
        return told


class _Counting:
    """A line that cannot be written, since the disk is full, is counted. `logging` would print a
    traceback for each, with the line's values."""

    limit: RateLimit

    def handleError(self, record: logging.LogRecord) -> None:
        self.limit.total_left_out += 1


class _Console(_Counting, logging.StreamHandler[TextIO]):
    pass


class _File(_Counting, logging.handlers.RotatingFileHandler):
    pass


class _Limited(logging.Handler):
    """Passes records on to the real handlers within the rate limit."""

    def __init__(self, limit: RateLimit, handlers: Sequence[logging.Handler]) -> None:
        super().__init__()
        self._limit = limit
        self._handlers = handlers

    def emit(self, record: logging.LogRecord) -> None:
        event = record.msg.get("event") if isinstance(record.msg, dict) else record.msg
        self.tell_left_out(self._limit.minute_over(record.created))
        is_error = record.levelno >= logging.ERROR
        if self._limit.admit(f"{record.name}: {event}", is_error=is_error):
            self._write(record)

    def tell_left_out(self, counts: dict[str, int]) -> None:
        """One line that says what was not written."""
        if not counts:
            return
        most, *others = counts.items()
        text = f"{sum(counts.values())} log lines were left out: {most[1]} of {most[0]!r}"
        text += f", the others of {len(others)} more events" if others else ""
        made = logging.LogRecord("primed.logs", logging.WARNING, "", 0, text, None, None)
        self._write(made)

    def _write(self, record: logging.LogRecord) -> None:
        for handler in self._handlers:
            handler.handle(record)
