"""Can others reach this node? Evidence is what others did: connections that came from outside."""

from __future__ import annotations

from collections.abc import Iterator

from primed.node.doctor.context import Context
from primed.node.doctor.results import ok, skip, warn
from primed.node.local_views import CheckView

NEED_IT = {"learner", "verifier", "relay"}


def check(context: Context) -> Iterator[CheckView]:
    if context.status is None or context.peers is None:
        yield skip("reachability", context.why_no_daemon)
        return
    afar = [peer for peer in context.peers.peers if not _is_here(peer.addresses)]
    came = [peer for peer in afar if peer.direction == "in"]
    roles = {role.role for role in context.status.roles}
    if not afar:
        yield skip("reachability", "no peer on another machine is connected")
    elif came:
        text = f"{len(came)} of {len(afar)} peers on other machines connected to this node"
        yield ok("reachability", text)
    elif roles & NEED_IT:
        text = f"none of {len(afar)} peers on other machines has connected to this node"
        remedy = "forward the listening port in the router; until then others fetch by way of peers"
        yield warn("reachability", text, remedy)
    else:
        yield ok("reachability", "nobody has connected from outside; a worker needs no open port")


def _is_here(addresses: tuple[str, ...]) -> bool:
    return all(address.startswith(("/ip4/127.", "/ip6/::1/")) for address in addresses)
