"""Logging: both styles, libraries at WARNING, repetition counted, and no secrets (scenario 43)."""

from __future__ import annotations

import io
import json
import logging
import warnings
from contextlib import suppress
from pathlib import Path

import pytest
import structlog

from primed.node.logs import LINES_PER_MINUTE, RateLimit, logging_to
from primed.p2p.identity import Identity


def test_json_lines_go_to_both_places(tmp_path: Path) -> None:
    stream, path = io.StringIO(), tmp_path / "daemon.log"
    with logging_to(path, level="info", style="json", stream=stream):
        log = structlog.get_logger("primed.test")
        log.debug("unseen")
        log.info("seen", step=3)
        logging.getLogger("library.host").info("unseen")
        logging.getLogger("library.host").warning("peer %s", "left")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["seen", "peer left"]
    assert (lines[0]["step"], lines[0]["level"], lines[0]["logger"]) == (3, "info", "primed.test")
    assert lines[1]["logger"] == "library.host"
    kept = [json.loads(line)["event"] for line in path.read_text().splitlines()]
    assert kept == ["seen", "peer left"]


def test_console_lines_are_plain_when_no_terminal_reads_them(tmp_path: Path) -> None:
    stream = io.StringIO()
    with logging_to(None, level="debug", style="console", stream=stream):
        structlog.get_logger("primed.test").debug("hello", peer="x")
    assert "hello" in stream.getvalue() and "peer=x" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("style", ["json", "console"])
def test_no_key_reaches_a_log(tmp_path: Path, style: str) -> None:
    """Scenario 43: not by repr, not as bytes, not through a traceback's local variables."""
    identity = Identity.generate()
    seed = identity.seed
    path = tmp_path / "daemon.log"

    def fail(token: bytes, text: str) -> None:
        raise ValueError("no secrets here")

    with logging_to(path, level="debug", style=style, stream=io.StringIO()):
        log = structlog.get_logger("primed.test")
        log.info("made", identity=identity, raw=seed, view=memoryview(seed))
        try:
            fail(seed, seed.hex())
        except ValueError:
            log.exception("failed")
            logging.getLogger("library").exception("failed too")
    text = path.read_text()
    assert "no secrets here" in text and "Traceback" in text
    assert seed.hex() not in text and repr(seed) not in text and str(list(seed)) not in text
    assert f"{seed[:4].hex()}…(32 bytes)" in text.replace("\\u2026", "…")


def test_repetition_is_counted_instead_of_written() -> None:
    """Scenario 25."""
    limit = RateLimit(lines_per_minute=3, all_lines_per_minute=5)
    assert limit.minute_over(100.0) == {}
    assert [limit.admit("a") for _ in range(5)] == [True, True, True, False, False]
    assert limit.minute_over(159.9) == {}
    assert limit.minute_over(160.0) == {"a": 2}
    assert limit.total_left_out == 2
    assert [limit.admit(name) for name in "abcdef"] == [True] * 5 + [False]
    assert limit.admit("g", is_error=True)  # a flood of others does not hide an error
    assert limit.end() == {"f": 1}
    for number in range(5000):
        limit.admit(str(number))
    assert len(limit._seen) <= 1001 and len(limit._left_out) <= 1001


def test_a_chatty_library_does_not_fill_the_log(tmp_path: Path) -> None:
    path = tmp_path / "daemon.log"
    with logging_to(path, level="info", style="json", stream=io.StringIO()):
        for number in range(500):
            logging.getLogger("library").warning("lost %s", number)
            structlog.get_logger("primed.x").info("tick", number=number)
    lines = [json.loads(line)["event"] for line in path.read_text().splitlines()]
    assert len(lines) == 2 * LINES_PER_MINUTE + 1
    assert lines[-1].startswith("940 log lines were left out: 470 of 'library: lost %s'")


def test_warnings_are_logged_and_all_is_put_back() -> None:
    stream = io.StringIO()
    before = logging.getLogger().handlers[:]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with logging_to(None, level="info", style="json", stream=stream):
            warnings.warn("old", UserWarning, stacklevel=1)
    assert "UserWarning: old" in stream.getvalue()
    assert logging.getLogger().handlers == before


def test_scenario_12_lines_that_cannot_be_written_are_counted(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A full disk: no traceback for each line, and no value of the line in it."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "w") as full:
        with logging_to(None, level="info", style="json", stream=full) as limit:
            for number in range(3):
                structlog.get_logger("primed.test").info(f"line {number}", value="of the line")
        assert limit.total_left_out == 3
        with suppress(OSError):
            full.close()
    assert capfd.readouterr() == ("", "")
