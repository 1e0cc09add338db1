"""Python, primed and the libraries that it is exact about."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from primed.node.doctor.context import Context
from primed.node.doctor.results import fail, ok, warn
from primed.node.local_views import CheckView
from primed.node.version import installed_version

PYTHON_LEAST = (3, 11)
_EXACT = re.compile(r"([\w.-]+)==([^;\s]+)")  # not those of extras
TOLD = ("torch", "transformers", "libp2p", "trio", "cryptography", "msgspec")


def check(context: Context) -> Iterator[CheckView]:
    text = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info >= PYTHON_LEAST:
        yield ok("python", text)
    else:
        yield fail(
            "python", text, "primed needs Python 3.11 or newer: make setup PYTHON=python3.11"
        )
    yield from _versions()
    if context.status is not None:
        yield _daemon_version(context.status.version)


def _versions() -> Iterator[CheckView]:
    found = {name: _installed(name) for name in TOLD}
    text = ", ".join(f"{name} {number or 'missing'}" for name, number in found.items())
    exact = [match for line in requires("primed-node") or [] if (match := _EXACT.fullmatch(line))]
    wrong = [match[1] for match in exact if _installed(match[1]) != match[2]]
    missing = [name for name, number in found.items() if not number]
    if missing or wrong:
        remedy = f"install what primed asks for ({', '.join(missing + wrong)}): make setup"
        yield fail("versions", f"primed {installed_version()}: {text}", remedy)
    else:
        yield ok("versions", f"primed {installed_version()}: {text}")


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _daemon_version(running: str) -> CheckView:
    if running == installed_version():
        return ok("daemon-version", f"the daemon runs the installed version, {running}")
    text = f"the daemon runs {running}, installed is {installed_version()}"
    return warn("daemon-version", text, "restart it: primed stop, primed start")
