"""Settings: flags > PRIMED_* environment > <data dir>/primed.toml > defaults.

Every value knows where it came from, so that an error and `primed status` can say it. Unknown keys
are errors, with the nearest known one. Lists are separated by commas in the environment.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from primed.node.addresses import check_dialable, check_listen
from primed.node.paths import Paths
from primed.node.profiles import Profile, profile_of
from primed.p2p.errors import UserError
from primed.p2p.hours import QuietHours
from primed.verify.runspec import Role

DEFAULT_PORT = 4101
DEFAULT_LISTEN = (f"/ip4/0.0.0.0/tcp/{DEFAULT_PORT}",)
ANY_PORT = ("/ip4/0.0.0.0/tcp/0",)
LEAST_UPLOAD_CAP = 128_000  # bytes a second: with less, peers take us for silent
_PREFIX = "PRIMED_"
# Makes this node's engine cheat, in toy runs only: set by `primed demo` and tests.
DISHONEST_VARIABLE = "PRIMED_TOY_DISHONEST"
_NOT_SETTINGS = {"PRIMED_DATA_DIR", "PRIMED_DEBUG", "PRIMED_NATIVE", DISHONEST_VARIABLE}


def _setting(default: Any, doc: str) -> Any:
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True)
class Config:
    """A node's settings. A field without documentation is not one that people set."""

    data_dir: Path
    listen: tuple[str, ...] = _setting(DEFAULT_LISTEN, "addresses to listen on")
    bootstrap: tuple[str, ...] = _setting((), "peers to find the swarm by, or invites' addresses")
    roles: tuple[Role | Literal["auto"], ...] = _setting(
        ("auto",), "roles to hold; auto: those that a run lists this key for, else worker"
    )
    announce: tuple[str, ...] = _setting(
        (), "addresses to tell others instead of those listened on, behind a forwarded port"
    )
    profile: Literal["home", "server", "lowpower"] = _setting(
        "home", "how much to take: home, server or lowpower (connections, threads, niceness)"
    )
    threads: Annotated[int, Meta(ge=1, le=1024)] = _setting(1, "CPU threads of each child process")
    niceness: Annotated[int, Meta(ge=0, le=19)] = _setting(
        5, "how far the child processes stand back for others, 0 to 19"
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting("info", "least level logged")
    log_format: Literal["console", "json"] = _setting("console", "console or json, on stderr")
    metrics_listen: str = _setting("", "host:port for Prometheus, for example 127.0.0.1:9464")
    mdns: bool = _setting(
        True,
        "find peers on the local network, and tell it where this node is; server profile: false",
    )
    upnp: bool = _setting(
        True, "have the router let others in, if nobody can dial this node; server profile: false"
    )
    metrics_public: bool = _setting(
        False, "let metrics_listen be an address that other machines reach; they have no password"
    )
    upload_cap_bytes_per_s: Annotated[int, Meta(ge=0)] = _setting(
        0,
        f"most that payloads may take of the uplink, at least {LEAST_UPLOAD_CAP}; 0: 80 % of what "
        "it was measured to carry, server profile: no cap",
    )
    quiet_hours: str = _setting(
        "", "when to upload no payloads, by this machine's clock, for example 22:30-07:00"
    )
    origins: Mapping[str, str] = field(default_factory=dict)  # setting -> where it came from

    @property
    def limits(self) -> Profile:
        return profile_of(self.profile)


SETTINGS = {item.name: item for item in fields(Config) if "doc" in item.metadata}
_TYPES = get_type_hints(Config, include_extras=True)


def load_config(
    paths: Paths,
    flags: Mapping[str, Any],
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """Merge all sources; a flag that is None was not given. Raises UserError naming the source."""
    values: dict[str, Any] = {}
    origins = {name: "default" for name in SETTINGS}
    for origin, source in _sources(paths, flags, environ):
        for name, value in source.items():
            where = origin.format(name=name, NAME=name.upper(), flag=name.replace("_", "-"))
            values[name] = converted(name, value, where)
            origins[name] = where
    _apply_profile(values, origins)
    _check_metrics(values, origins)
    return Config(data_dir=paths.root, origins=origins, **values)


def _apply_profile(values: dict[str, Any], origins: dict[str, str]) -> None:
    """The profile's own values, where nothing else says anything."""
    name = values.get("profile", SETTINGS["profile"].default)
    for setting in ("threads", "niceness", "mdns", "upnp"):
        if origins[setting] == "default":
            values[setting] = getattr(profile_of(name), setting)
            origins[setting] = f"profile {name}"
    if is_on_loopback(values.get("listen", DEFAULT_LISTEN)):
        for setting in ("mdns", "upnp"):
            if origins[setting] == f"profile {name}":
                values[setting], origins[setting] = False, "listen: this machine only"


def is_on_loopback(listen: Iterable[str]) -> bool:
    """Whether a node that listens so is for peers on its own machine."""
    return all(address.startswith(("/ip4/127.", "/ip6/::1/")) for address in listen)


def _check_metrics(values: Mapping[str, Any], origins: Mapping[str, str]) -> None:
    listen = values.get("metrics_listen", "")
    if listen and not values.get("metrics_public") and not is_loopback(listen):
        text = f"metrics_listen from {origins['metrics_listen']}: other machines can reach {listen}"
        hint = "use 127.0.0.1, or set metrics_public = true and let a firewall decide who reads"
        raise UserError(text, hint)


def is_loopback(host_and_port: str) -> bool:
    """Whether only this machine reaches a TCP address."""
    host = host_and_port.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def with_free_port(config: Config, port: int = DEFAULT_PORT) -> Config:
    """Any port instead of the default one, if another program has that. A port that the user
    chose is never replaced."""
    if config.origins.get("listen") != "default":
        return config
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return replace(config, listen=ANY_PORT)
    return config


def _sources(
    paths: Paths, flags: Mapping[str, Any], environ: Mapping[str, str]
) -> Iterable[tuple[str, dict[str, Any]]]:
    """From weakest to strongest, with the pattern that names where a value came from."""
    path = str(paths.config).replace("{", "{{").replace("}", "}}")
    yield path, from_file(paths.config)
    yield "PRIMED_{NAME}", _from_environment(environ)
    yield "--{flag}", {name: value for name, value in flags.items() if value is not None}


def stated(paths: Paths, environ: Mapping[str, str]) -> Iterator[tuple[str, Any, str]]:
    """(setting, value as written, origin) of file and environment, unchecked; for what cannot be a
    setting the value is the UserError that says so."""
    try:
        values = _read_toml(paths.config)
    except UserError as error:
        yield "", error, str(paths.config)
        values = {}
    for name, value in values.items():
        yield name, _known(name, value, paths.config), str(paths.config)
    for variable, value in _variables(environ):
        yield _setting_of(variable), _valued(variable, value), variable


def from_file(path: Path) -> dict[str, Any]:
    """The file's settings, none if there is no file. Raises UserError for one that is unknown."""
    values = _read_toml(path)
    for name, value in values.items():
        if isinstance(wrong := _known(name, value, path), UserError):
            raise wrong
    return values


def _read_toml(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        return tomlkit.parse(path.read_text()).unwrap()
    except (TOMLKitError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}", "mend that line") from error


def _known(name: str, value: Any, path: Path) -> Any:
    if name in SETTINGS:
        return value
    return UserError(f"unknown setting {name!r} in {path}", suggestion(name, SETTINGS))


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    found = {}
    for variable, text in _variables(environ):
        if isinstance(value := _valued(variable, text), UserError):
            raise value
        found[_setting_of(variable)] = value
    return found


def _variables(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    return [
        (variable, text)
        for variable, text in environ.items()
        if variable.startswith(_PREFIX) and variable not in _NOT_SETTINGS
    ]


def _setting_of(variable: str) -> str:
    return variable.removeprefix(_PREFIX).lower()


def _valued(variable: str, text: str) -> Any:
    """What a variable says, not yet converted; a UserError if there is no such setting."""
    known = {_PREFIX + name.upper(): name for name in SETTINGS}
    if variable not in known:
        hint = suggestion(variable, known)
        return UserError(f"unknown environment variable {variable}", hint)
    is_list = isinstance(SETTINGS[known[variable]].default, tuple)
    return [part for part in text.split(",") if part] if is_list else text


def suggestion(name: str, known: Iterable[str]) -> str:
    """A hint for a name that is not known: the nearest one, or all."""
    known = list(known)
    return _nearest(name, known) or f"known: {', '.join(sorted(known))}"


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else ""


def converted(name: str, value: Any, origin: str) -> Any:
    """The value in its type, checked. Raises UserError that names where it came from."""
    if isinstance(SETTINGS[name].default, tuple) and isinstance(value, str):
        value = [value]
    try:
        converted = msgspec.convert(value, _TYPES[name], strict=False)
        _check(name, converted)
    except (msgspec.ValidationError, ValueError) as error:
        words = f"{value!r} is neither true nor false" if _TYPES[name] is bool else error
        hints = (_meant(name, value), SETTINGS[name].metadata["doc"])
        hint = " ".join(each for each in hints if each)
        raise UserError(f"{name} from {origin}: {words}", hint) from error
    return converted


def _meant(name: str, value: Any) -> str:
    """What was meant by the first word that is none of the few which a setting takes."""
    words = list(_words(_TYPES[name]))
    for each in value if isinstance(value, list) else [value]:
        if words and each not in words:
            return _nearest(str(each), words)
    return ""


def _words(type_: Any) -> Iterator[str]:
    if get_origin(type_) is Literal:
        yield from get_args(type_)
    else:
        for part in get_args(type_):
            yield from _words(part)


def _check(name: str, value: Any) -> None:
    if name in ("listen", "announce"):
        for address in value:
            check_listen(address)
    elif name == "bootstrap":
        for address in value:
            check_dialable(address)
    elif name == "upload_cap_bytes_per_s" and 0 < value < LEAST_UPLOAD_CAP:
        raise ValueError(f"{value} is less than {LEAST_UPLOAD_CAP}")
    elif name == "quiet_hours" and value:
        QuietHours.parse(value)
    elif name == "metrics_listen" and value:
        host, colon, port = value.rpartition(":")
        if not (host and colon and port.isdecimal() and int(port) < 65536):
            raise ValueError(f"{value!r} is not host:port")


def write_config(paths: Paths, chosen: Mapping[str, Any]) -> None:
    """Write primed.toml: the chosen settings, and every other one as a comment with its default.
    Raises UserError if there is one already."""
    import tomlkit

    document = tomlkit.document()
    document.add(tomlkit.comment("Settings of this node. Flags and PRIMED_* variables go first."))
    for name, item in SETTINGS.items():
        document.add(tomlkit.nl())
        document.add(tomlkit.comment(item.metadata["doc"]))
        if (value := chosen.get(name)) is not None:
            document.add(name, _plain(value))
        else:
            default = tomlkit.item(_plain(item.default)).as_string()
            document.add(tomlkit.comment(f"{name} = {default}"))
    try:
        with paths.config.open("x") as file:
            file.write(tomlkit.dumps(document))
    except FileExistsError as error:
        raise UserError(f"{paths.config} exists already", "edit it, or remove it") from error
    except OSError:  # without room a part of it would be taken for all
        paths.config.unlink(missing_ok=True)
        raise


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
