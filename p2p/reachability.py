"""What is known of whether others can dial us; measured by `reach`, shown to people."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    UNKNOWN = "unknown"  # not measured yet
    PUBLIC = "public"
    UPNP = "upnp"  # public by a mapping that our router made for us
    LOCAL = "local"  # by peers of this machine or local network
    RELAYED = "relayed"  # only by way of a relay
    OUTBOUND = "outbound"  # by nobody


CONSEQUENCES = {
    Kind.UNKNOWN: "nothing follows yet",
    Kind.PUBLIC: "others can dial this node",
    Kind.UPNP: "others can dial this node, as long as the router keeps the mapping",
    Kind.LOCAL: "peers on this machine or local network can dial this node, others cannot",
    Kind.RELAYED: "others reach this node through a relay; nothing large goes that way",
    Kind.OUTBOUND: "this node dials others and nobody can dial it; enough to work, not to serve",
}


@dataclass(frozen=True)
class Reachability:
    """`evidence`: who said or showed what. `address`: where others can dial us, "" if nowhere."""

    kind: Kind
    evidence: str
    address: str = ""

    @property
    def consequence(self) -> str:
        return CONSEQUENCES[self.kind]
