"""Options that every command has, and printing a view as JSON."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import msgspec
from cyclopts import Parameter

from primed.node.cli.client import Client
from primed.node.paths import Paths, find_paths


@Parameter(name="*")
@dataclass(frozen=True)
class Common:
    """Options of every command."""

    data_dir: Annotated[str | None, Parameter(help="Data directory [~/.primed].")] = None
    json: Annotated[bool, Parameter(negative="", help="Print one JSON object, ask nothing.")] = (
        False
    )

    @property
    def paths(self) -> Paths:
        return find_paths(self.data_dir)

    @property
    def client(self) -> Client:
        return Client(self.paths)


COMMON = Common()


def show_json(view: msgspec.Struct, common: Common) -> bool:
    """Print the view as JSON if that was asked for; whether it was."""
    if common.json:
        print_json(view)
    return common.json


def print_json(view: object) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(view), indent=2).decode() + "\n")


def split_list(values: list[str] | None) -> list[str] | None:
    """`--roles a,b --roles c` as a, b, c; None if the option was not given."""
    if values is None:
        return None
    return [part for value in values for part in value.split(",") if part]
