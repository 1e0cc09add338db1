"""Can others reach this node? Evidence is what others did: who dialled back when asked, what the
router was asked for, and connections that came from outside."""

from __future__ import annotations

from collections.abc import Iterator

from primed.node.doctor.context import Context
from primed.node.doctor.results import ok, skip, warn
from primed.node.local_views import CheckView
from primed.node.views import NetworkView, StatusView

NEED_IT = {"learner", "verifier", "relay"}
_MISSED = ("outbound", "relayed")  # measured: nobody dials this node


def check(context: Context) -> Iterator[CheckView]:
    if context.status is None or context.peers is None:
        yield skip("reachability", context.why_no_daemon)
        return
    network = context.status.network
    if network.reachability in ("public", "upnp"):
        yield ok("reachability", f"{network.reachability}: {_evidence(network)}")
        return
    afar = [peer for peer in context.peers.peers if not _is_here(peer.addresses)]
    came = [peer for peer in afar if peer.direction == "in"]
    if not afar:
        text = f"no peer on another machine is connected; {_evidence(network)}"
        yield skip("reachability", text)
    elif came and network.reachability not in _MISSED:
        text = f"{len(came)} of {len(afar)} peers on other machines connected to this node"
        yield ok("reachability", f"{text}; {_evidence(network)}")
    else:
        yield _unreached(context.status, len(afar))


def _unreached(status: StatusView, afar: int) -> CheckView:
    network = status.network
    text = (
        network.reachability
        if network.reachability in _MISSED
        else f"none of {afar} peers on other machines has connected to this node"
    )
    text += f": {_evidence(network)}"
    if NEED_IT & {role.role for role in status.roles}:
        remedy = "forward the listening port in the router; until then others fetch by way of peers"
        return warn("reachability", text, remedy)
    return ok("reachability", f"{text}; a worker needs no open port")


def _evidence(network: NetworkView) -> str:
    measured = network.reachability_evidence or "nothing measured"
    if network.reachability == "upnp":  # the evidence names the router
        return measured
    return f"{measured}; upnp: {network.upnp or 'off'}"


def _is_here(addresses: tuple[str, ...]) -> bool:
    return all(address.startswith(("/ip4/127.", "/ip6/::1/")) for address in addresses)
