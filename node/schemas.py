"""Which command prints which view with --json: their JSON Schemas, and docs/json.md.

`python -m primed.node.schemas > docs/json.md` writes the page; a test holds it to this.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from primed.node import local_views as local
from primed.node import views
from primed.node.demo.outcome import Outcome
from primed.p2p.errors import UserError

PRINTED: dict[str, type[msgspec.Struct]] = {
    "status": views.StatusView,
    "peers": views.PeersView,
    "id": views.IdentityView,
    "id export": local.KeyFileView,
    "id import": local.KeyFileView,
    "rewards": views.RewardsView,
    "verdicts": views.VerdictsView,
    "runs list": views.RunsView,
    "runs show": views.RunView,
    "runs join": views.RunView,
    "runs publish": views.RunView,
    "start": views.StatusView,
    "stop": views.StoppingView,
    "init": local.InitView,
    "demo": Outcome,
    "doctor": local.DoctorView,
    "bundle": local.BundleView,
    "config show": local.SettingsView,
    "config get": local.SettingView,
    "config set": local.SettingView,
    "config validate": local.ValidationView,
    "version": local.ReleaseView,
    "error": views.ErrorView,
}
_FIELD = re.compile(r"^    (\w+): (.+?)(?: = [^#]+?)?(?:  # (.*))?$")
_INTRO = """# JSON of the command line

Every command prints one JSON object with `--json` and asks nothing. This page is made from the
views in the code (`python -m primed.node.schemas`); `primed schema [COMMAND]` prints the same as
JSON Schema. Peer ids are base58 text, digests hex, times unix milliseconds or seconds that have
passed. Fields are only ever added. `primed logs --json` prints one object a line instead, with
`event`, `level`, `timestamp` and `logger`.
"""


def schema_of(command: str) -> dict[str, Any]:
    """JSON Schema of what a command prints; of all of them by name for "". Raises UserError."""
    if not command:
        return {name: msgspec.json.schema(type_) for name, type_ in PRINTED.items()}
    if command not in PRINTED:
        raise UserError(f"no command {command!r} has a schema", f"known: {', '.join(PRINTED)}")
    return msgspec.json.schema(PRINTED[command])


def page() -> str:
    """docs/json.md."""
    commands: dict[type[msgspec.Struct], list[str]] = {}
    for command, type_ in PRINTED.items():
        commands.setdefault(type_, []).append(command)
    parts = [_INTRO, "## Commands\n\n| command | prints |\n|---|---|"]
    parts += [
        f"| `{name}` | [{t.__name__}](#{t.__name__.lower()}) |" for name, t in PRINTED.items()
    ]
    parts.append("\n## Views\n")
    return "\n".join([*parts, *map(_section, _with_parts(list(commands)))])


def _with_parts(types: list[type[msgspec.Struct]]) -> Iterator[type[msgspec.Struct]]:
    """The views and those they are made of, each once."""
    seen: list[type[msgspec.Struct]] = []
    while types:
        type_ = types.pop(0)
        if type_ in seen:
            continue
        seen.append(type_)
        yield type_
        types[:0] = list(_parts_of(msgspec.inspect.type_info(type_)))


def _parts_of(info: object) -> Iterator[type[msgspec.Struct]]:
    fields = getattr(info, "fields", ())
    for inner in [field.type for field in fields] or [getattr(info, "item_type", None)]:
        if isinstance(inner, msgspec.inspect.StructType):
            yield inner.cls
        elif isinstance(inner, msgspec.inspect.UnionType):
            yield from (t.cls for t in inner.types if isinstance(t, msgspec.inspect.StructType))
        elif inner is not None:
            yield from _parts_of(inner)


def _section(type_: type[msgspec.Struct]) -> str:
    about = " ".join((type_.__doc__ or "").split())
    rows = [
        f"| `{match[1]}` | `{match[2].replace('|', chr(92) + '|')}` | {match[3] or ''} |"
        for line in inspect.getsource(type_).splitlines()
        if (match := _FIELD.match(line))
    ]
    head = f"### {type_.__name__}\n\n"
    is_said = bool(about) and not about.startswith(f"{type_.__name__}(")
    return "\n".join(
        [head + (about + "\n" if is_said else ""), "| field | type | |", "|---|---|---|", *rows, ""]
    )


if __name__ == "__main__":
    print(page(), end="")
