"""What a profile sets: how much of the machine and of its network a node takes.

home: a computer that people use meanwhile. server: a machine for this. lowpower: a small board, or a
laptop. Settings that the user gives (`threads`, `niceness`) go before their profile's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

ProfileName = Literal["home", "server", "lowpower"]


@dataclass(frozen=True)
class Profile:
    connections: int  # at most
    target_peers: int  # that the node looks for by itself
    threads: int  # CPU threads of each child process
    niceness: int  # of the children: 0 competes with everything, 19 with nothing
    bulk_up: int  # payload transfers at a time, to others ...
    bulk_down: int  # ... and from them
    mdns: bool  # speak on the local network: in a data centre that is other people's
    upnp: bool  # have a router let others in: a data centre has none that would


def profile_of(name: ProfileName) -> Profile:
    cores = len(os.sched_getaffinity(0))
    profiles: dict[ProfileName, Profile] = {
        "home": Profile(50, 12, 1, 5, bulk_up=2, bulk_down=4, mdns=True, upnp=True),
        "server": Profile(
            400, 24, max(1, cores - 1), 0, bulk_up=8, bulk_down=8, mdns=False, upnp=False
        ),
        "lowpower": Profile(20, 6, 1, 19, bulk_up=1, bulk_down=2, mdns=True, upnp=True),
    }
    return profiles[name]
