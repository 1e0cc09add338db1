"""A port of the home router, pointed at ours: UPnP Internet Gateway Device, versions 1 and 2.

`mapping` finds the router (`ssdp`), reads what it offers and asks it (`gateway`, over `exchange` and
`tree`), renews the mapping while it is wanted and removes it at the end. Own code, because the
library at hand (miniupnpc) keeps a description of any size in memory and its thread for as long
as a device drips bytes. Whoever answers on the local network is a stranger: answers are bounded,
have a deadline, and lead nowhere but to the device that sent them. What a router claims is
believed only when peers have dialled back by it (`reach`).
"""

from primed.p2p.upnp.mapping import Mapping, PortMapper

__all__ = ["Mapping", "PortMapper"]
