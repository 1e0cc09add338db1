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


def profile_of(name: ProfileName) -> Profile:
    cores = len(os.sched_getaffinity(0))
    profiles: dict[ProfileName, Profile] = {
        "home": Profile(50, 12, threads=1, niceness=5, bulk_up=2, bulk_down=4),
        "server": Profile(400, 24, threads=max(1, cores - 1), niceness=0, bulk_up=8, bulk_down=8),
        "lowpower": Profile(20, 6, threads=1, niceness=19, bulk_up=1, bulk_down=2),
    }
    return profiles[name]
