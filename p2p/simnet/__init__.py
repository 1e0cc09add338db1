"""A simulated network: `Network` over memory, with everything that goes wrong between machines.

One `World` holds any number of `SimNetwork`s in one trio run. `run(main, seed=...)` makes time
virtual and the order of tasks a function of the seed, so that a seed always gives the same trace,
in any process. Above the `Network` interface nothing knows that it is simulated.

Modelled: latency, jitter, loss (TCP turns it into delay), bandwidth of links and uplinks,
partitions, frozen and dead machines, peers behind NAT and relays for them, damaged bytes (the
secure channel drops the connection), gossip over a mesh with validators, duplicates and lost
messages, penalties and bans, bootstrap peers and peer exchange, provider records that spread slowly.
Real parts that are used as they are: `penalties`, `peerbook`, `overlay`, `topics`.

Not modelled: libp2p's own protocols byte by byte, stream flow control beyond one window, CPU time.
A frozen machine's timers go on; nothing it sends or should receive moves until it is thawed, which
looks the same from outside.
"""

from primed.p2p.simnet.host import Access, Host
from primed.p2p.simnet.network import SimNetwork
from primed.p2p.simnet.seeded import run
from primed.p2p.simnet.trace import Trace
from primed.p2p.simnet.world import World

__all__ = ["Access", "Host", "SimNetwork", "Trace", "World", "run"]
