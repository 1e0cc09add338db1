"""Text for terminals: aligned, and safe to show whatever peers wrote."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primed.node.cli.screens import print_status
from primed.node.cli.text import clean, count, duration, print_table, styled
from primed.node.views import NetworkView, StatusView


@given(st.text())
def test_no_control_character_reaches_the_screen(text: str) -> None:
    assert clean(text).isprintable() and len(clean(text)) == len(text)
    assert styled(text, "red") == clean(text)  # no terminal here


def test_tables_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("a", "name"), [(1, "x\x1b[2J"), (22, "")], "none")
    assert capsys.readouterr().out == "a   name\n1   x?[2J\n22\n"
    print_table(("a",), [], "none")
    assert capsys.readouterr().out == "none\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (1.5, "2 s"), (100, "1 min 40 s"), (4000, "1 h 6 min"), (200_000, "2 d 7 h")],
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_counts_have_their_plural() -> None:
    assert (count(0, "peer"), count(1, "peer")) == ("0 peers", "1 peer")


def test_no_waits_are_said_to_be_none_if_they_were_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    network = NetworkView(state="online", reason="", listen=(), peers=0)
    view = StatusView(version="", peer="", pid=1, data_dir="", uptime_s=1.0, network=network)
    for with_waits in (True, False):
        print_status(view, with_waits=with_waits)
        assert ("  waits for nothing\n" in capsys.readouterr().out) == with_waits
