"""Settings: precedence, origins, unknown keys, what `init` writes."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from primed.node.config import (
    ANY_PORT,
    DEFAULT_LISTEN,
    SETTINGS,
    load_config,
    with_free_port,
    write_config,
)
from primed.node.paths import Paths, find_paths
from primed.p2p.errors import UserError

PEER = "/ip4/203.0.113.7/tcp/4101/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = Paths(tmp_path / "node")
    paths.create()
    return paths


def test_flags_go_before_environment_before_file_before_defaults(paths: Paths) -> None:
    paths.config.write_text('threads = 2\nprofile = "server"\nlog_level = "debug"\n')
    environ = {"PRIMED_THREADS": "3", "PRIMED_PROFILE": "lowpower", "HOME": "/"}
    config = load_config(paths, {"threads": 4, "profile": None}, environ)
    assert (config.threads, config.profile, config.log_level) == (4, "lowpower", "debug")
    assert config.listen == DEFAULT_LISTEN
    assert config.limits.connections == 20
    assert config.origins["threads"] == "--threads"
    assert config.origins["profile"] == "PRIMED_PROFILE"
    assert config.origins["log_level"] == str(paths.config)
    assert config.origins["listen"] == "default"
    assert set(config.origins) == set(SETTINGS)


@pytest.mark.parametrize("setting", ["mdns", "upnp"])
def test_nothing_is_spoken_to_the_local_network_unasked(paths: Paths, setting: str) -> None:
    def found(**flags: object) -> tuple[bool, str]:
        config = load_config(paths, flags, {})
        return getattr(config, setting), config.origins[setting]

    here = ["/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0"]
    assert found() == found(profile=None) == (True, "profile home")
    assert found(profile="lowpower") == (True, "profile lowpower")
    assert found(profile="server") == (False, "profile server")
    assert found(listen=here) == (False, "listen: this machine only")
    assert found(listen=here, **{setting: True}) == (True, f"--{setting}")
    paths.config.write_text(f"{setting} = false")
    assert found() == (False, str(paths.config))


def test_lists_are_separated_by_commas_in_the_environment(paths: Paths) -> None:
    environ = {"PRIMED_LISTEN": "/ip4/127.0.0.1/tcp/0,/ip6/::1/tcp/0", "PRIMED_BOOTSTRAP": ""}
    config = load_config(paths, {"roles": ["worker"]}, environ)
    assert config.listen == ("/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0")
    assert config.bootstrap == ()
    assert config.roles == ("worker",)


@pytest.mark.parametrize(
    ("file", "environ", "flags", "words", "hint"),
    [
        ("threats = 1", {}, {}, "unknown setting 'threats' in", "did you mean threads?"),
        ("zzz = 1", {}, {}, "unknown setting 'zzz'", "known: announce, bootstrap"),
        ("threads = ", {}, {}, "not valid TOML", "line"),
        ("threads = 0", {}, {}, "threads from", "CPU threads"),
        ("", {"PRIMED_LISTN": "x"}, {}, "PRIMED_LISTN", "did you mean PRIMED_LISTEN?"),
        ("", {"PRIMED_THREADS": "many"}, {}, "threads from PRIMED_THREADS", "CPU threads"),
        ("", {}, {"profile": "huge"}, "profile from --profile", "how much to take"),
        ("", {}, {"roles": ["boss"]}, "roles from --roles", "roles to hold"),
        ("", {}, {"listen": ["4101"]}, "listen from --listen", "addresses to listen on"),
        ("", {}, {"bootstrap": ["/ip4/1.2.3.4/tcp/1"]}, "ends in /p2p/", "swarm"),
        ("", {}, {"upload_cap_bytes_per_s": 1000}, "upload_cap_bytes_per_s from", "uplink"),
        ("", {"PRIMED_QUIET_HOURS": "at night"}, {}, "is not like 22:30-07:00", "clock"),
        ("", {"PRIMED_UPNP": "maybe"}, {}, "PRIMED_UPNP: 'maybe' is neither true nor", "router"),
        ("", {}, {"metrics_listen": "9464"}, "metrics_listen from --metrics-listen", "host:port"),
        ("", {}, {"metrics_listen": "localhost:x"}, "not host:port", "host:port"),
    ],
)
def test_what_is_wrong_is_said_with_its_source(
    paths: Paths,
    file: str,
    environ: dict[str, str],
    flags: dict[str, object],
    words: str,
    hint: str,
) -> None:
    paths.config.write_text(file)
    with pytest.raises(UserError) as caught:
        load_config(paths, flags, environ)
    assert words in caught.value.message
    assert hint in caught.value.hint


def test_variables_that_are_no_settings_are_left_alone(paths: Paths) -> None:
    environ = {"PRIMED_DATA_DIR": "/x", "PRIMED_DEBUG": "1", "PRIMED_NATIVE": "off"}
    assert load_config(paths, {}, environ).threads == 1


def test_the_written_file_holds_what_was_chosen_and_explains_the_rest(paths: Paths) -> None:
    write_config(paths, {"bootstrap": [PEER], "threads": 2, "profile": None})
    text = paths.config.read_text()
    assert '# profile = "home"' in text
    assert all(item.metadata["doc"] in text for item in SETTINGS.values())
    config = load_config(paths, {}, {})
    assert (config.bootstrap, config.threads) == ((PEER,), 2)
    with pytest.raises(UserError, match="exists already"):
        write_config(paths, {})
    paths.config.write_text(
        "\n".join(line.removeprefix("# ") for line in text.splitlines()[1:] if "=" in line)
    )
    assert load_config(paths, {}, {}).listen == DEFAULT_LISTEN  # the commented defaults are valid


def test_the_data_directory_is_flag_then_environment_then_home() -> None:
    assert find_paths("/a", {"PRIMED_DATA_DIR": "/b"}).root == Path("/a")
    assert find_paths(None, {"PRIMED_DATA_DIR": "/b"}).root == Path("/b")
    assert find_paths(None, {}).root == Path.home() / ".primed"


def test_only_the_default_port_is_given_up_when_it_is_taken(paths: Paths) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert with_free_port(load_config(paths, {}, {}), port).listen == ANY_PORT
        chosen = load_config(paths, {"listen": [f"/ip4/127.0.0.1/tcp/{port}"]}, {})
        assert with_free_port(chosen, port) is chosen
    assert with_free_port(load_config(paths, {}, {}), port).listen == DEFAULT_LISTEN
