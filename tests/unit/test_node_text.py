"""Text for terminals: aligned, and safe to show whatever peers wrote."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primed.node.cli.text import clean, count, duration, print_table, styled


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
