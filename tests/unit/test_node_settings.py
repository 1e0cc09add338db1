"""`primed config`: what is in force and why, changes that keep the comments, all errors at once; what
a profile sets; metrics that only this machine reads (scenario 45)."""

from __future__ import annotations

from pathlib import Path

import pytest

from primed.node import settings
from primed.node.config import SETTINGS, load_config, write_config
from primed.node.paths import Paths
from primed.node.profiles import profile_of
from primed.p2p.errors import UserError


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = Paths(tmp_path / "node")
    paths.create()
    return paths


def test_every_setting_is_shown_with_its_origin(paths: Paths) -> None:
    paths.config.write_text("threads = 2\n")
    environ = {"PRIMED_LOG_LEVEL": "debug"}
    shown = {each.name: each for each in settings.show(paths, environ).settings}
    assert set(shown) == set(SETTINGS)
    assert (shown["threads"].value, shown["threads"].origin) == (2, str(paths.config))
    assert (shown["log_level"].value, shown["log_level"].origin) == ("debug", "PRIMED_LOG_LEVEL")
    assert (shown["niceness"].value, shown["niceness"].origin) == (5, "profile home")
    assert shown["listen"].origin == "default" and shown["listen"].about


def test_a_change_keeps_what_else_is_in_the_file(paths: Paths) -> None:
    write_config(paths, {"roles": ["worker"]})
    before = paths.config.read_text().splitlines()
    settings.put(paths, "threads", "3", {})
    after = paths.config.read_text().splitlines()
    assert [line for line in after if line not in before] == ["threads = 3"]
    assert len(after) == len(before)  # in the place of its commented default
    settings.put(paths, "threads", "4", {})
    settings.put(paths, "roles", "worker,verifier", {})
    text = paths.config.read_text()
    assert "threads = 4" in text and "threads = 3" not in text
    assert 'roles = ["worker", "verifier"]' in text and "# CPU threads of each" in text
    assert settings.get(paths, "threads", {}).value == 4


def test_a_file_is_made_where_there_is_none(paths: Paths) -> None:
    made = settings.put(paths, "metrics_listen", "127.0.0.1:9464", {})
    assert made.origin == str(paths.config)
    assert '\nmetrics_listen = "127.0.0.1:9464"\n' in paths.config.read_text()
    assert settings.put(paths, "metrics_public", "true", {}).value is True


def test_a_directory_is_made_where_there_is_none(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "none yet")
    assert settings.put(paths, "threads", "2", {}).value == 2
    assert paths.root.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("name", "value", "words", "hint"),
    [
        ("therads", "3", "no setting 'therads'", "did you mean threads?"),
        ("threads", "0", "threads from the command line", "CPU threads"),
        ("threads", "many", "threads from the command line", "CPU threads"),
        ("profile", "huge", "profile from the command line", "home, server or lowpower"),
        ("profile", "hmoe", "profile from the command line", "did you mean home? how much to"),
        ("roles", "worker,verfier", "roles from the command line", "did you mean verifier?"),
        ("listen", "4101", "begins with /", "addresses to listen on"),
        ("metrics_listen", "0.0.0.0:9464", "other machines can reach", "metrics_public"),
    ],
)
def test_a_wrong_value_changes_nothing(
    paths: Paths, name: str, value: str, words: str, hint: str
) -> None:
    write_config(paths, {})
    before = paths.config.read_text()
    with pytest.raises(UserError) as caught:
        settings.put(paths, name, value, {})
    assert words in caught.value.message and hint in caught.value.hint
    assert paths.config.read_text() == before


def test_a_broken_file_is_not_touched(paths: Paths) -> None:
    paths.config.write_text("threads = \n")
    with pytest.raises(UserError, match="not valid TOML"):
        settings.put(paths, "threads", "2", {})
    assert paths.config.read_text() == "threads = \n"


def test_all_errors_are_found_at_once(paths: Paths) -> None:
    paths.config.write_text('therads = 1\nthreads = 0\nlisten = ["x"]\n')
    environ = {"PRIMED_PROFIL": "home", "PRIMED_NICENESS": "90"}
    found = settings.validate(paths, environ)
    text = " ".join(finding.what for finding in found.findings)
    assert not found.valid and len(found.findings) == 5
    for word in ("'therads'", "threads from", "listen from", "PRIMED_PROFIL", "PRIMED_NICENESS"):
        assert word in text
    assert "did you mean threads?" in [finding.fix for finding in found.findings]
    paths.config.write_text('metrics_listen = "0.0.0.0:1"\n')
    assert len(settings.validate(paths, {}).findings) == 1
    paths.config.write_text("= 1")
    (finding,) = settings.validate(paths, {}).findings
    assert "not valid TOML" in finding.what
    paths.config.unlink()
    assert settings.validate(paths, {}).valid


def test_a_profile_sets_what_the_user_does_not(paths: Paths) -> None:
    home, server, low = profile_of("home"), profile_of("server"), profile_of("lowpower")
    assert low.connections < home.connections < server.connections
    assert low.target_peers < home.target_peers < server.target_peers
    assert server.niceness < home.niceness < low.niceness and server.threads >= 1
    config = load_config(paths, {"profile": "lowpower", "threads": 2}, {})
    assert (config.threads, config.niceness) == (2, 19)
    assert config.origins["niceness"] == "profile lowpower"
    assert config.limits == low


@pytest.mark.parametrize(
    ("listen", "is_private"),
    [
        ("127.0.0.1:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("0.0.0.0:1", False),
        ("192.0.2.1:1", False),
        ("[::]:1", False),
        ("example.org:1", False),
    ],
)
def test_metrics_are_for_this_machine_unless_the_user_says_so(
    paths: Paths, listen: str, is_private: bool
) -> None:
    """Scenario 45."""
    flags: dict[str, object] = {"metrics_listen": listen}
    if is_private:
        assert load_config(paths, flags, {}).metrics_listen == listen
        return
    with pytest.raises(UserError, match="other machines can reach"):
        load_config(paths, flags, {})
    assert load_config(paths, flags, {"PRIMED_METRICS_PUBLIC": "true"}).metrics_listen == listen
