"""Environments: where prompts come from and what a completion is worth.

Installed packages only, found by the entry point group `primed.environments`; nothing executable
is ever fetched from a peer. A run names an environment and its digest: for one of ours it covers
name, version and parameters, for a foreign package the RECORD of the wheel that it came in, so
that two peers with the same digest run the same reward.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import Distribution, EntryPoint, entry_points
from typing import Protocol

from primed.training.errors import BadConfig
from primed.verify.digests import digest
from primed.verify.runspec import EnvironmentSpec

GROUP = "primed.environments"
_OURS = "primed.training.environments."


class Environment(Protocol):
    """Prompts by index and an exact reward. Pure: the same arguments, the same answer, anywhere."""

    name: str
    version: str
    parameters: dict[str, int]
    size: int  # prompts 0 .. size - 1
    eos: int  # the token that ends a completion

    def prompt(self, index: int) -> list[int]:
        """Token ids of a prompt, never empty."""
        ...

    def reward(self, index: int, completion: Sequence[int], finished: bool) -> int:
        """Reward in millionths of the generated ids (with the EOS if finished)."""
        ...

    def describe(self, index: int, completion: Sequence[int]) -> str:
        """Prompt and completion as a person reads them."""
        ...


class Installed:
    """An environment with the digest that a RunSpec pins."""

    def __init__(self, environment: Environment, digest: bytes) -> None:
        self.environment = environment
        self.digest = digest

    def spec(self, weight: int = 1) -> EnvironmentSpec:
        return EnvironmentSpec(name=self.environment.name, digest=self.digest, weight=weight)


def load(name: str) -> Installed:
    """The installed environment of this name. Raises BadConfig with what to do."""
    found = [point for point in entry_points(group=GROUP) if point.name == name]
    if not found:
        raise BadConfig(f"environment {name!r} is not installed: pip install the package it is in")
    if len({point.value for point in found}) > 1:
        raise BadConfig(f"environment {name!r} is offered by several packages: remove all but one")
    environment: Environment = found[0].load()()
    if environment.name != name:
        raise BadConfig(f"environment {name!r} calls itself {environment.name!r:.80}")
    return Installed(environment, _digest_of(found[0], environment))


def load_all(specs: Sequence[EnvironmentSpec]) -> list[Environment]:
    """A run's environments in its order. Raises BadConfig if one differs from what the run pins."""
    loaded = []
    for spec in specs:
        installed = load(spec.name)
        if installed.digest != spec.digest:
            raise BadConfig(
                f"environment {spec.name!r} has digest {installed.digest.hex()[:16]}, the run wants "
                f"{spec.digest.hex()[:16]}: install the version that the run names"
            )
        loaded.append(installed.environment)
    return loaded


def _digest_of(point: EntryPoint, environment: Environment) -> bytes:
    if point.value.startswith(_OURS):
        parameters = json.dumps(environment.parameters, sort_keys=True).encode()
        return digest(
            "environment", environment.name.encode(), environment.version.encode(), parameters
        )
    if point.dist is None:
        raise BadConfig(f"environment {point.name!r} belongs to no installed package")
    return digest("environment-wheel", point.value.encode(), *_recorded_files(point.dist))


def _recorded_files(dist: Distribution) -> list[bytes]:
    """`path,hash` of each file that the wheel brought; what the installer added is left out."""
    if '"editable"' in (dist.read_text("direct_url.json") or ""):
        raise BadConfig(f"{dist.name} is an editable install: install it from a wheel")
    rows = (line.split(",") for line in (dist.read_text("RECORD") or "").splitlines())
    kept = [f"{row[0]},{row[1]}".encode() for row in rows if len(row) == 3 and _is_content(*row)]
    if not kept:
        raise BadConfig(f"{dist.name} has no RECORD of its files: install it from a wheel")
    return sorted(kept)


def _is_content(path: str, hashed: str, _size: str) -> bool:
    return bool(hashed) and ".dist-info/" not in path and not path.startswith("..")
