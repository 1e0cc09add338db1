"""A simulated machine: its access line, and what is the matter with it. No behaviour of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from primed.p2p.simnet.network import SimNetwork


@dataclass(frozen=True)
class Access:
    """A line, one way: a host's to the core of the network, or one link's own.

    loss: share of 1,400-byte packets that have to be sent again. damage: chance that a piece of at
    most 64 KiB arrives changed, which ends its connection as Noise does.
    """

    latency_s: float = 0.015
    jitter_s: float = 0.003
    loss: float = 0.0
    bytes_per_s: float = 2_500_000.0
    damage: float = 0.0


@dataclass
class Host:
    """`clock_skew_s`: what its wall clock is ahead. A host behind NAT (`is_public` False) can be
    reached only over a relay that it is connected to."""

    name: str
    peer: bytes
    address: str  # /ip4/.../tcp/...
    access: Access = Access()
    is_public: bool = True
    is_relay: bool = False
    clock_skew_s: float = 0.0
    side: int = 0  # of a partition
    frozen_since: float | None = None
    off_since: float | None = None  # without power: nobody is told that it went
    network: SimNetwork | None = None  # while a process runs on it
    uplink_free_at: float = 0.0
    held: list[Callable[[], None]] = field(default_factory=list)  # until it is thawed

    @property
    def is_silent(self) -> bool:
        return self.frozen_since is not None or self.off_since is not None
