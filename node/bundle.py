"""The support archive: what somebody who helps needs to see, and nothing that would hurt to show.

Everything passes the redactor, and then every member is searched for this node's own key in every
form (scenario 43): a member that holds it is left out, and the bundle says so. Made without a
daemon too. Keys, weights, batches and the database itself never go in.
"""

from __future__ import annotations

import io
import os
import platform
import tarfile
import time
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import BinaryIO

import msgspec

from primed.node import doctor, settings
from primed.node.cli.client import Client
from primed.node.local_views import BundleView
from primed.node.paths import Paths
from primed.node.redaction import SAID, Redactor, forms_of
from primed.node.store.statistics import statistics
from primed.node.version import installed_version
from primed.node.views import PeersView, RunsView, StatusView, View
from primed.p2p import identity
from primed.p2p.errors import UserError

LOG_MAX_BYTES = 256 * 1024  # the end of each
LOGS_MAX = 24
_SHOWN: dict[str, type[View]] = {"status": StatusView, "peers": PeersView, "runs": RunsView}


def write(paths: Paths, file: Path) -> BundleView:
    """Write the archive (tar.gz, mode 0600). Raises UserError if the file exists."""
    secrets = _secrets(paths)
    redactor = Redactor(paths.root, Path.home())
    kept: dict[str, bytes] = {}
    dropped = []
    for name, found in _members(paths):
        content = redactor.text(found.decode(errors="replace")).encode()
        if any(form in content or form in found for form in secrets):
            dropped.append(name)
        else:
            kept[name] = content
    notes = [f"primed {installed_version()}", "", "Left out or replaced:", *SAID]
    notes += [f"{name} held this node's key and was left out" for name in dropped]
    kept["README.txt"] = "\n".join([*notes, ""]).encode()
    _archive(file, kept)
    return BundleView(
        file=str(file),
        size_bytes=file.stat().st_size,
        members=tuple(kept),
        redacted=SAID,
        dropped=tuple(dropped),
    )


def _secrets(paths: Paths) -> set[bytes]:
    """All forms of this node's key. A key that cannot be read cannot be searched for: then there
    is no bundle."""
    if not paths.identity.exists():
        return set()
    return forms_of(identity.load(paths.identity).seed)


def _members(paths: Paths) -> Iterator[tuple[str, bytes]]:
    client = Client(paths)
    for name, type_ in _SHOWN.items():
        try:
            yield f"{name}.json", _json(client.get(name, type_))
        except UserError as error:
            yield f"{name}.json", _json({"error": error.message})
    yield "doctor.json", _json(doctor.examine(paths))
    yield "config.json", _json(_config(paths))
    yield "versions.json", _json(_versions())
    yield "store.json", _json(statistics(paths.database))
    logs = [*paths.logs.glob("*.log"), *paths.logs.glob("*.log.*"), *paths.logs.glob("tasks-*.txt")]
    for path in sorted(logs, key=lambda each: each.stat().st_mtime, reverse=True)[:LOGS_MAX]:
        yield f"logs/{path.name}", _end_of(path)


def _config(paths: Paths) -> msgspec.Struct:
    try:
        return settings.show(paths)
    except UserError:
        return settings.validate(paths)


def _versions() -> dict[str, str]:
    installed = {each.name: each.version for each in distributions()}
    system = {"python": platform.python_version(), "system": platform.platform()}
    return system | dict(sorted(installed.items()))


def _end_of(path: Path) -> bytes:
    """Whole lines: half of one could be half of an address or of a secret."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size_bytes - LOG_MAX_BYTES))
        end = file.read(LOG_MAX_BYTES)
    return end if size_bytes <= LOG_MAX_BYTES else end.partition(b"\n")[2]


def _json(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"


def _archive(path: Path, members: dict[str, bytes]) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        text = f"cannot write {path}: {error.strerror}"
        raise UserError(text, "give another name with --out") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            _fill(file, members)
    except OSError:  # half an archive helps nobody, and would be in the way of the next one
        path.unlink()
        raise


def _fill(file: BinaryIO, members: dict[str, bytes]) -> None:
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in sorted(members.items()):
            about = tarfile.TarInfo(f"primed-bundle/{name}")
            about.size, about.mtime, about.mode = len(content), int(time.time()), 0o600
            archive.addfile(about, io.BytesIO(content))
