"""The settings as `primed config` shows, changes and checks them. Comments in the file stay."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from primed.node import config
from primed.node.config import SETTINGS
from primed.node.local_views import FindingView, SettingsView, SettingView, ValidationView
from primed.node.paths import Paths
from primed.p2p.errors import UserError


def show(paths: Paths, environ: Mapping[str, str] = os.environ) -> SettingsView:
    """Every setting, with where its value came from. Raises UserError for the first wrong one."""
    merged = config.load_config(paths, {}, environ)
    return SettingsView(
        settings=tuple(
            SettingView(
                name=name,
                value=getattr(merged, name),
                origin=merged.origins[name],
                default=item.default,
                about=item.metadata["doc"],
            )
            for name, item in SETTINGS.items()
        )
    )


def get(paths: Paths, name: str, environ: Mapping[str, str] = os.environ) -> SettingView:
    _check_known(name)
    return next(setting for setting in show(paths, environ).settings if setting.name == name)


def put(paths: Paths, name: str, text: str, environ: Mapping[str, str] = os.environ) -> SettingView:
    """Write a setting into the file; lists are separated by commas. Raises UserError for a value
    that does not fit, alone or with the others; then the file is as it was."""
    _check_known(name)
    is_list = isinstance(SETTINGS[name].default, tuple)
    given: Any = [part for part in text.split(",") if part] if is_list else text
    value = config.converted(name, given, "the command line")
    if not paths.config.exists():
        paths.create()
        config.write_config(paths, {})
    before = paths.config.read_text()
    config.from_file(paths.config)  # a file that is broken otherwise is not touched
    _replace(paths, _with(before, name, value))
    try:
        return get(paths, name, environ)
    except UserError:
        _replace(paths, before)
        raise


def validate(paths: Paths, environ: Mapping[str, str] = os.environ) -> ValidationView:
    """All that is wrong, not only the first."""
    findings = tuple(_findings(paths, environ))
    return ValidationView(valid=not findings, findings=findings)


def _findings(paths: Paths, environ: Mapping[str, str]) -> Iterator[FindingView]:
    wrong = False
    for name, value, origin in config.stated(paths, environ):
        try:
            if isinstance(value, UserError):
                raise value
            config.converted(name, value, origin)
        except UserError as error:
            wrong = True
            yield FindingView(what=error.message, fix=error.hint)
    if not wrong:
        try:
            config.load_config(paths, {}, environ)
        except UserError as error:
            yield FindingView(what=error.message, fix=error.hint)


def _check_known(name: str) -> None:
    if name not in SETTINGS:
        raise UserError(f"there is no setting {name!r}", config.suggestion(name, SETTINGS))


def _with(text: str, name: str, value: Any) -> str:
    """The file's text with this setting; in place of its commented default, if that is there."""
    import tomlkit

    document = tomlkit.parse(text)
    plain = list(value) if isinstance(value, tuple) else value
    if name in document:
        document[name] = plain
        return tomlkit.dumps(document)
    line = f"{name} = {tomlkit.item(plain).as_string()}"
    commented = re.compile(rf"^# *{re.escape(name)} *=.*$", re.MULTILINE)
    if commented.search(text):
        return commented.sub(lambda _: line, text, count=1)
    return f"{text.rstrip()}\n{line}\n" if text.strip() else f"{line}\n"


def _replace(paths: Paths, text: str) -> None:
    draft = paths.config.with_name(f".{paths.config.name}.new")
    draft.write_text(text)
    draft.replace(paths.config)
