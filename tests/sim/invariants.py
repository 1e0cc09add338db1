"""What must hold at the end of every seed, whatever was broken and whoever cheated.

Each check returns sentences about what does not hold. `why_not_settled` says when to look: every honest
node that is up has finished the run and is at the originator's newest cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from primed.node.participation import Participation
from primed.p2p import limits
from primed.verify.ledger import State, decode_state

from .cast import BUDGET
from .daemon import SimDaemon

if TYPE_CHECKING:
    from .swarm import Swarm


def honest(swarm: Swarm) -> list[SimDaemon]:
    return [daemon for daemon in swarm.daemons.values() if not daemon.member.vice]


def sound(swarm: Swarm) -> list[tuple[SimDaemon, Participation]]:
    """Honest nodes that are up and whose clocks others believe, with their part in the run."""
    found = []
    for daemon in honest(swarm):
        part = daemon.part(swarm.run.run_id)
        if part is not None and daemon.member.is_in_time:
            found.append((daemon, part))
    return found


def why_not_settled(swarm: Swarm) -> str:
    """ "" when there is nothing left to wait for."""
    parts = sound(swarm)
    expected = sum(daemon.member.is_in_time for daemon in honest(swarm))
    if len(parts) < expected:
        return f"{expected - len(parts)} honest nodes do not take part yet"
    for daemon, part in parts:
        if not part.is_finished():
            return f"{daemon.member.name} has not finished: {part.describe()[1]}"
        if daemon.member.role == "verifier" and part.lag_steps():
            return f"{daemon.member.name} is {part.lag_steps()} steps behind"
    if len({part.events.summary() for _, part in parts}) > 1:
        return "some nodes lack events"
    if len({part.ledger.newest_cut() for _, part in parts}) > 1:
        return "some nodes lack cuts"
    state = parts[0][1].ledger.state
    pending = [batch for batch in state.batches.values() if batch.state == "committed"]
    return f"{len(pending)} batches are open in the ledger" if pending else ""


def faults_of(swarm: Swarm) -> list[str]:
    """Every sentence about what is wrong."""
    checks = (
        _progress,
        _one_component,
        _agreement,
        _money,
        _events,
        _honest_are_kept,
        _frozen_keep_their_score,
        _cheats,
        _equivocators,
        _payloads,
        _services,
    )
    return [fault for check in checks for fault in check(swarm)]


def _progress(swarm: Swarm) -> Iterator[str]:
    """Work goes on after every fault, for everybody, late joiners included (scenario 8)."""
    for daemon, part in sound(swarm):
        if not part.is_finished():
            yield f"{daemon.member.name} is not finished: {part.describe()}"
    up = {daemon.member.name for daemon, _ in sound(swarm)}
    for daemon in honest(swarm):
        if daemon.member.is_in_time and daemon.member.name not in up:
            yield f"{daemon.member.name} takes no part at the end"


def _one_component(swarm: Swarm) -> Iterator[str]:
    """Split bootstrap peers, partitions: in the end one swarm (scenario 9)."""
    nodes = {d.member.peer: d for d in honest(swarm) if d.is_up}
    if not nodes:
        return
    first = next(iter(nodes))
    reached, frontier = {first}, [first]
    while frontier:
        for peer in nodes[frontier.pop()].network.connected():
            if peer in nodes and peer not in reached:
                reached.add(peer)
                frontier.append(peer)
    away = [daemon.member.name for peer, daemon in nodes.items() if peer not in reached]
    if away:
        yield f"not connected to the others: {' '.join(away)}"


def _agreement(swarm: Swarm) -> Iterator[str]:
    """All honest nodes know the same events and the same cuts."""
    numbers = {part.ledger.newest_cut()[0] for _, part in sound(swarm)}
    if len(numbers) > 1:
        yield f"newest cuts differ: {sorted(numbers)}"
    roots: dict[int, dict[bytes, str]] = {}
    for daemon in honest(swarm):
        for number, root in swarm.watch.cuts.get(daemon.member.peer, {}).items():
            roots.setdefault(number, {})[root] = daemon.member.name
    for number, found in roots.items():
        if len(found) > 1:
            yield f"cut {number} has {len(found)} roots: {sorted(found.values())}"


def _money(swarm: Swarm) -> Iterator[str]:
    """Credits are neither made nor lost, and no batch is paid twice."""
    paid: dict[tuple[bytes, int], bytes] = {}
    vested: dict[bytes, int] = {}
    for number, data in sorted(swarm.watch.states.items()):
        state = decode_state(data)
        total = state.remaining_micro + sum(
            account.final_micro + account.pending_micro + account.burned_micro
            for account in state.accounts.values()
        )
        if total != BUDGET:
            yield f"cut {number}: accounts and budget add up to {total}, not {BUDGET}"
        for commitment, batch in state.batches.items():
            if batch.credits_micro:
                first = paid.setdefault((batch.worker, batch.counter), commitment)
                if first != commitment:
                    yield f"cut {number}: counter {batch.counter} of one worker is paid twice"
        for settled in state.settled:
            if settled.state == "vested":
                vested[settled.commitment] = vested.get(settled.commitment, 0) + 1
    yield from (f"batch {c.hex()[:8]} vested {n} times" for c, n in vested.items() if n > 1)


def _events(swarm: Swarm) -> Iterator[str]:
    """What a node wrote down before it was published is never lost, nor written otherwise."""
    yield from swarm.watch.contradictions
    void = {d.member.peer for d in swarm.daemons.values() if d.member.vice == "equivocate"}
    for daemon, part in sound(swarm):
        for other in honest(swarm):
            author = other.member.peer
            if author in void or not other.member.is_in_time:
                continue
            for seq, digest in enumerate(swarm.watch.own.get(author, [])):
                if part.events.digest_at(author, seq) != digest:
                    yield f"{daemon.member.name} lacks event {seq} of {other.member.name}"
                    break


def _honest_are_kept(swarm: Swarm) -> Iterator[str]:
    """No honest node bans, or even disconnects, an honest one (scenario 11 for odd clocks)."""
    names = {daemon.member.peer: daemon.member.name for daemon in honest(swarm)}
    points: dict[tuple[bytes, bytes], int] = {}
    reasons: dict[tuple[bytes, bytes], str] = {}
    for penalty in swarm.world.penalties:
        if penalty.by in names and penalty.peer in names:
            pair = (penalty.by, penalty.peer)
            points[pair] = points.get(pair, 0) + penalty.points
            reasons[pair] = penalty.reason
    for pair, total in points.items():
        if -total <= limits.SCORE_DISCONNECT / 2:
            by, peer = pair
            yield f"{names[by]} took {total} points off honest {names[peer]}: {reasons[pair]}"


def _frozen_keep_their_score(swarm: Swarm) -> Iterator[str]:
    """Being silent is no offence (scenario 2)."""
    frozen = {
        swarm.daemons[fault.names[0]].member.peer: fault
        for fault in swarm.plan.faults
        if fault.kind in ("freeze", "power")
    }
    by_honest = {daemon.member.peer for daemon in honest(swarm)}
    for penalty in swarm.world.penalties:
        fault = frozen.get(penalty.peer)
        if fault is not None and penalty.by in by_honest and penalty.at_s >= fault.at_s:
            yield f"{fault.names[0]} was silent and lost {penalty.points}: {penalty.reason}"


def _cheats(swarm: Swarm) -> Iterator[str]:
    """Who answers with another model, or copies, earns nothing (scenarios 31 and 32)."""
    state = _newest_state(swarm)
    for daemon in swarm.daemons.values():
        if daemon.member.vice not in ("model", "copy") or state is None:
            continue
        account = state.accounts.get(daemon.member.peer)
        if account is not None and account.final_micro + account.pending_micro:
            yield f"{daemon.member.name} ({daemon.member.vice}) earned {account}"
    for daemon in honest(swarm):
        worker = state.workers.get(daemon.member.peer) if state else None
        if worker is not None and (worker.excluded or worker.fraud_counters):
            yield f"{daemon.member.name} is honest and was held for a fraud: {worker}"


def _newest_state(swarm: Swarm) -> State | None:
    states = swarm.watch.states
    return decode_state(states[max(states)]) if states else None


def _equivocators(swarm: Swarm) -> Iterator[str]:
    """Two events under one number are known as such everywhere (scenario 30)."""
    shown = {line.split()[1] for line in swarm.world.trace.lines() if " equivocates " in line}
    for liar in swarm.daemons.values():
        for daemon, part in sound(swarm):
            is_known = liar.member.peer in part.events.voids()
            if liar.member.name in shown and not is_known:
                yield f"{daemon.member.name} does not know that {liar.member.name} equivocated"
            if not liar.member.vice and is_known:
                yield f"{daemon.member.name} holds honest {liar.member.name} for an equivocator"


def _payloads(swarm: Swarm) -> Iterator[str]:
    """Whoever needs the newest weights has them, whoever lied about leaves."""
    for daemon, part in sound(swarm):
        if daemon.member.role == "verifier" and part.lag_steps():
            yield f"{daemon.member.name} lags {part.lag_steps()} steps behind"


def _services(swarm: Swarm) -> Iterator[str]:
    """Nothing failed that should not: no handler, no service, no validator."""
    for daemon in honest(swarm):
        if daemon.services is None:
            continue
        for error in daemon.network.handler_errors:
            yield f"{daemon.member.name}: a handler failed: {error!r}"
        for metric in daemon.services.metrics.border_errors.collect():
            for sample in metric.samples:
                if sample.name.endswith("_total") and sample.value:
                    yield f"{daemon.member.name}: {sample.labels['border']} failed"
        if errors := daemon.network.traffic.handler_errors - len(daemon.network.handler_errors):
            yield f"{daemon.member.name}: {errors} validators or deliveries failed"
