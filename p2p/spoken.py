"""Protocol ids `/<home>/<name>/<integer>`: which versions of a name a peer has told. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable

_LONGEST_VERSION = 3  # digits


def by_name(protocols: Iterable[str]) -> dict[str, set[int]]:
    """Versions of each `/<home>/<name>`; ids of another form say nothing."""
    found: dict[str, set[int]] = defaultdict(set)
    for protocol in protocols:
        name, _, version = protocol.rpartition("/")
        if version.isascii() and version.isdecimal() and len(version) <= _LONGEST_VERSION:
            found[name].add(int(version))
    return found


def listed(versions: Collection[int]) -> str:
    """The newest two, in words."""
    return " and ".join(map(str, sorted(versions)[-2:]))


def why_refused(protocol: str, told: Collection[str]) -> str:
    """A sentence if a peer that told these protocols does not speak this one; "" if it may."""
    if not told or protocol in told:
        return ""
    versions = by_name(told).get(protocol.rpartition("/")[0])
    if not versions:
        return "the peer does not speak it"
    return f"the peer speaks version {listed(versions)} of it"
