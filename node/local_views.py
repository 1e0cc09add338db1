"""What the commands that need no daemon print with --json; the same rules as in `node.views`."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

Result = Literal["ok", "warn", "fail", "skip"]


class _View(Struct, frozen=True, kw_only=True):
    pass


class InitView(_View, frozen=True):
    """What `primed init` made."""

    peer: str
    data_dir: str
    settings: str  # path


class ReleaseView(_View, frozen=True):
    """The installed version."""

    version: str


class CheckView(_View, frozen=True):
    """One check of the doctor."""

    id: str  # stable
    result: Result
    evidence: str  # what was found
    remedy: str = ""  # what to do; "" if nothing


class DoctorView(_View, frozen=True):
    """All checks. The exit code is 0, 1 with warnings, 2 with failures."""

    checks: tuple[CheckView, ...]
    warnings: int
    failures: int
    daemon: bool  # whether one answered


class SettingView(_View, frozen=True):
    """A setting as a daemon started now would have it."""

    name: str
    value: Any
    origin: str  # default, profile <name>, a file, PRIMED_<NAME>
    default: Any
    about: str


class SettingsView(_View, frozen=True):
    settings: tuple[SettingView, ...]


class FindingView(_View, frozen=True):
    """What is wrong with the settings, and how to mend it."""

    what: str
    fix: str


class ValidationView(_View, frozen=True):
    """The exit code is 0 without findings, else 1."""

    valid: bool
    findings: tuple[FindingView, ...]


class KeyFileView(_View, frozen=True):
    """An identity that was exported or imported."""

    peer: str
    file: str


class BundleView(_View, frozen=True):
    """The support archive."""

    file: str
    size_bytes: int
    members: tuple[str, ...]
    redacted: tuple[str, ...]  # what was left out or replaced, in words
    dropped: tuple[str, ...]  # members left out because a secret was found in them
