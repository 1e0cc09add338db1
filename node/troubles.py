"""What is wrong, derived from the state at the moment of asking: who is missing, which child is
down, what the network says. Problems that somebody raised (`node.problems`) come with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from primed.node.clocks import TOLERANCE_S
from primed.node.participation import Participation
from primed.node.services import Services
from primed.node.views import ProblemView
from primed.p2p import peerid
from primed.verify.runspec import Role

_CONSEQUENCES: dict[Role, str] = {
    "learner": "no new versions come; batches stay committed until it is back",
    "verifier": "batches it drew wait for the other verifiers or end inconclusive",
    "originator": "work goes on, earnings stay pending until it closes an epoch",
}


def troubles(services: Services, parts: Iterable[Participation]) -> tuple[ProblemView, ...]:
    found = [*services.problems.views(), *_network(services), *_children(services)]
    found += _clock(services)
    for part in parts:
        found += _missing_peers(part)
    return tuple(found)


def _network(services: Services) -> Iterator[ProblemView]:
    state, reason = services.network.state()
    if state == "connecting":
        fix = "nothing if it is a short outage; else check this machine's network and the invite"
        yield ProblemView(name="no-peers", what=f"no peer is reachable: {reason}", fix=fix)


def _clock(services: Services) -> Iterator[ProblemView]:
    offset_s = services.clocks.median_s()
    if offset_s is not None and abs(offset_s) > TOLERANCE_S:
        way = "behind" if offset_s > 0 else "ahead of"
        what = f"this machine's clock is {abs(offset_s):.0f} s {way} its peers'"
        yield ProblemView(name="clock", what=what, fix="set it: timedatectl set-ntp true")


def _children(services: Services) -> Iterator[ProblemView]:
    """From the moment a child stops until it is ready again."""
    for child in services.supervisor.status():
        log = f"{services.paths.logs}/{child.name}.log"
        fixes = {
            "failed": f"mend that and start the daemon again; {log} may say more",
            "restarting": f"it starts again in {child.restart_in_s:.0f} s; if it repeats see {log}",
            "starting": f"it is starting again; if it repeats see {log}",
        }
        if child.reason and child.state in fixes:
            what = f"the {child.kind} process {child.reason}"
            yield ProblemView(name=f"child-{child.kind}", what=what, fix=fixes[child.state])


def _missing_peers(part: Participation) -> Iterator[ProblemView]:
    """Keys that the run relies on and that are not connected."""
    if part.is_finished():
        return
    needed: list[tuple[Role, bytes]] = [("originator", part.run.spec.originator)]
    needed += [("learner", peer) for peer in part.run.peers("learner")]
    needed += [("verifier", peer) for peer in part.run.peers("verifier")]
    for role, peer in needed:
        if peer != part.me and not part.is_connected(peer):
            what = f"{role} {peerid.short(peer)} of run {part.run.spec.name} is not connected"
            fix = f"nothing to do here: {_CONSEQUENCES[role]}"
            yield ProblemView(name=f"{role}-away", what=what, fix=fix)
    yield from _missing_relays(part)


def _missing_relays(part: Participation) -> Iterator[ProblemView]:
    """One relay that answers is enough: newcomers find the swarm by any of them."""
    relays = [peer for peer, roles in part.joined.items() if "relay" in roles]
    if relays and not any(peer == part.me or part.is_connected(peer) for peer in relays):
        what = f"no relay of run {part.run.spec.name} is connected"
        fix = "nothing to do here: work goes on; newcomers need another address until one is back"
        yield ProblemView(name="relay-away", what=what, fix=fix)
