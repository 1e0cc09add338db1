"""The commands on the settings file: config show, get, set, validate."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from primed.node.cli.options import COMMON, Common, show_json

Key = Annotated[str, Parameter(help="Name of the setting.")]


def show(
    *,
    origin: Annotated[bool, Parameter(negative="", help="Also where each value is from.")] = False,
    common: Common = COMMON,
) -> None:
    """List all settings, as a daemon started now would have them."""
    from primed.node import settings

    view = settings.show(common.paths)
    if not show_json(view, common):
        from primed.node.cli.text import print_table

        columns = ("setting", "value", "from") if origin else ("setting", "value")
        rows = [(s.name, _text(s.value), s.origin)[: len(columns)] for s in view.settings]
        print_table(columns, rows, "")


def get(key: Key, *, common: Common = COMMON) -> None:
    """Print one setting."""
    from primed.node import settings

    view = settings.get(common.paths, key)
    if not show_json(view, common):
        print(_text(view.value))


def put(
    key: Key,
    value: Annotated[str, Parameter(help="Its value; lists are separated by commas.")],
    *,
    common: Common = COMMON,
) -> None:
    """Write one setting into the file; it counts from the next start on."""
    from primed.node import settings

    view = settings.put(common.paths, key, value)
    if not show_json(view, common):
        print(f"{view.name} = {_text(view.value)}  (from {view.origin})")
        if view.origin != str(common.paths.config):
            print(f"note: {view.origin} goes before the file")


def validate(*, common: Common = COMMON) -> int:
    """Check the settings file and the environment; say all that is wrong."""
    from primed.node import settings

    view = settings.validate(common.paths)
    if not show_json(view, common):
        from primed.node.cli.text import clean

        for finding in view.findings:
            print(f"{clean(finding.what)}\n  do: {clean(finding.fix)}")
        if view.valid:
            print("the settings are valid")
    return 0 if view.valid else 1


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
