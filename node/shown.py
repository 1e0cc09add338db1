"""What the daemon shows of itself: `NodeView` over the live state, read at the moment of asking."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Literal, cast

import trio

from primed.node.invite import Invite, format_invite
from primed.node.joining import Joining
from primed.node.own_batches import Note
from primed.node.participation import Participation
from primed.node.services import Services
from primed.node.store.batches import BatchRow
from primed.node.troubles import troubles
from primed.node.version import installed_version
from primed.node.views import (
    AccountView,
    BatchView,
    IdentityView,
    NetworkView,
    PeersView,
    PeerView,
    ProblemView,
    RewardsView,
    RunsView,
    RunView,
    StatusView,
    StoppingView,
    TransferView,
    VerdictsView,
    VerdictView,
    VersionView,
)
from primed.p2p import peerid
from primed.p2p.errors import UserError
from primed.protocols import versions
from primed.verify.cases import Case
from primed.verify.explain import BatchLine
from primed.verify.ledger import Account
from primed.verify.runspec import MICRO, Run
from primed.verify.statements import Manifest, version_of

RECENT_VERSIONS = 32
REWARDS_READ = 10_000  # newest own batches that the counts cover
TREND = 5  # versions that `reward_first` and `reward_last` average


class Shown:
    def __init__(self, services: Services, joining: Joining, stop: trio.Event) -> None:
        self._services = services
        self._joining = joining
        self._stop = stop
        self._since = trio.current_time()

    async def status(self) -> StatusView:
        services, parts = self._services, self._joining.parts.values()
        problems = troubles(services, list(parts))
        return StatusView(
            version=installed_version(),
            peer=peerid.to_text(services.identity.peer),
            pid=os.getpid(),
            data_dir=str(services.paths.root),
            uptime_s=trio.current_time() - self._since,
            network=self._network(),
            roles=tuple(task.view() for part in parts for task in part.tasks),
            children=tuple(services.supervisor.status()),
            runs=tuple(self._run(part) for part in parts),
            waits=services.waits.views(),
            problems=problems,
            invite=self._invite(None),
            state=_state_of(problems),
        )

    def _network(self) -> NetworkView:
        network = self._services.network
        traffic = network.traffic
        state, reason = network.state()
        reach = network.reachability
        return NetworkView(
            state=cast(Literal["online", "connecting", "alone"], state),
            reason=reason,
            listen=self._services.addresses(),
            peers=len(network.peers()),
            gossip_received_bytes=traffic.gossip_received_bytes,
            gossip_sent_bytes=traffic.gossip_sent_bytes,
            stream_received_bytes=traffic.stream_received_bytes,
            stream_sent_bytes=traffic.stream_sent_bytes,
            bulk_received_bytes=traffic.bulk_received_bytes,
            bulk_sent_bytes=traffic.bulk_sent_bytes,
            rejected=traffic.gossip_rejected,
            handler_errors=traffic.handler_errors,
            peak_received_bytes_s=self._services.rates.peak_received,
            peak_sent_bytes_s=self._services.rates.peak_sent,
            reachability=reach.kind.value,
            reachability_evidence=reach.evidence,
            reachability_consequence=reach.consequence,
            bootstrap=self._services.bootstrap,
            upnp=network.port_mapping,
            mdns=network.local_discovery,
        )

    def _invite(self, run: bytes | None) -> str:
        """Also the peers that we came by: they may be easier to reach than we are."""
        addresses = dict.fromkeys((*self._services.addresses(), *self._services.bootstrap))
        return format_invite(Invite(run, tuple(addresses))) if addresses else ""

    async def peers(self) -> PeersView:
        records = self._joining.hello.records
        views = []
        for info in self._services.network.peers():
            record = records.get(info.peer)
            views.append(
                PeerView(
                    peer=peerid.to_text(info.peer),
                    addresses=info.addresses,
                    direction=info.direction,
                    connected_s=info.connected_s,
                    score=info.score,
                    roles=record.roles if record else (),
                    runs=tuple(run.hex() for run in record.runs) if record else (),
                    clock_offset_s=self._services.clocks.offset_s(info.peer),
                    note=self._note_on(info.peer),
                    lane=info.lane,
                    lane_reason=info.lane_reason,
                )
            )
        return PeersView(peers=tuple(views))

    def _note_on(self, peer: bytes) -> str:
        """Why a peer is not understood, if it is not."""
        hello = self._joining.hello
        record = hello.records.get(peer)
        return hello.refusals.get(peer, "") or (
            versions.mismatch(record.protocols) if record else ""
        )

    def credits(self) -> list[tuple[str, dict[str, float]]]:
        """(run's name, own credits by state), for the metrics."""
        own = []
        for part in self._joining.parts.values():
            account = part.ledger.state.accounts.get(part.me, Account())
            final, pending = account.final_micro / MICRO, account.pending_micro / MICRO
            own.append((part.run.spec.name, {"final": final, "pending": pending}))
        return own

    def carried(self) -> list[tuple[str, str, str, int]]:
        """(run's name, lane, direction, bytes of leaves), for the metrics."""
        return [
            (part.run.spec.name, lane, direction, count_bytes)
            for part in self._joining.parts.values()
            for (lane, direction), count_bytes in part.shardcast.carried().items()
        ]

    async def identity(self) -> IdentityView:
        return IdentityView(
            peer=peerid.to_text(self._services.identity.peer),
            addresses=self._services.addresses(),
            data_dir=str(self._services.paths.root),
        )

    # ---- runs ------------------------------------------------------------------------------

    async def runs(self) -> RunsView:
        known = self._joining.known.values()
        return RunsView(runs=tuple(self._known(run) for run in known))

    async def run(self, run: str) -> RunView:
        found = self._joining.find(run)
        part = self._joining.parts.get(found.run_id)
        return self._known(found) if part is None else self._run(part, whole=True)

    async def join(self, target: str, roles: tuple[str, ...]) -> RunView:
        return self._known(await self._joining.join(target, roles))

    async def publish(self, spec_path: str) -> RunView:
        return self._known(await self._joining.publish(spec_path))

    def _known(self, run: Run) -> RunView:
        part = self._joining.parts.get(run.run_id)
        if part is not None:
            return self._run(part)
        return RunView(
            run=run.run_id.hex(),
            name=run.spec.name,
            originator=peerid.to_text(run.spec.originator),
            joined=False,
            roles=(),
            state="known",
            reason="not joined: `primed runs join`",
            invite=self._invite(run.run_id),
            warning=_warning(run),
        )

    def _run(self, part: Participation, *, whole: bool = False) -> RunView:
        run, ledger = part.run, part.ledger.state
        chain = [*part.lineages.chain(next(iter(part.run.peers("learner"))))][::-1]
        rewards = [manifest.reward_mean for manifest in chain if manifest.step]
        state, reason = part.describe()
        return RunView(
            run=run.run_id.hex(),
            name=run.spec.name,
            originator=peerid.to_text(run.spec.originator),
            joined=True,
            roles=part.roles,
            state=state,
            reason=reason,
            newest=self._version(part, chain[-1]) if chain else None,
            lag_steps=part.lag_steps(),
            reward_first=fmean(rewards[:TREND]) if rewards else None,
            reward_last=fmean(rewards[-TREND:]) if rewards else None,
            versions=len(chain),
            batches_usable=part.tallies.usable.total(),
            batches_rejected=part.tallies.rejected.total(),
            cut=ledger.number,
            state_root=ledger.root.hex(),
            excluded=tuple(peerid.to_text(p) for p in part.joined if part.cases.is_excluded(p)),
            accounts=self._accounts(part) if whole else (),
            recent=tuple(self._version(part, each) for each in chain[: -RECENT_VERSIONS - 1 : -1])
            if whole
            else (),
            invite=self._invite(run.run_id),
            warning=_warning(run),
            pushed_bytes=part.shardcast.received_gossip_bytes,
            pulled_bytes=part.shardcast.received_pulled_bytes,
            amplification=round(part.shardcast.amplification(), 3),
            transfers=_transfers(part),
        )

    def _version(self, part: Participation, manifest: Manifest) -> VersionView:
        version = version_of(manifest)
        return VersionView(
            version=version.hex(),
            learner=peerid.to_text(manifest.learner),
            step=manifest.step,
            kind=manifest.kind,
            reward_mean=manifest.reward_mean,
            batches=len(manifest.consumed),
            held=part.policies.has(version),
        )

    def _accounts(self, part: Participation) -> tuple[AccountView, ...]:
        accounts = part.ledger.state.accounts
        views = []
        for peer in sorted({*part.joined, *accounts}):
            account = accounts.get(peer)
            status = part.cases.worker(peer)
            views.append(
                AccountView(
                    peer=peerid.to_text(peer),
                    roles=part.joined.get(peer, ()),
                    final=account.final_micro / MICRO if account else 0.0,
                    pending=account.pending_micro / MICRO if account else 0.0,
                    excluded=status.is_excluded,
                    reason=", ".join(f"batch {c}: {why}" for c, why in status.frauds),
                    batches_usable=part.tallies.usable[peer],
                    batches_rejected=part.tallies.rejected[peer],
                )
            )
        return tuple(views)

    # ---- own work --------------------------------------------------------------------------

    async def rewards(self, run: str, limit: int) -> RewardsView:
        part = self._part(run)
        ledger = part.ledger.state
        told = await part.own.lines(ledger, part.cases, REWARDS_READ)
        account = ledger.accounts.get(part.me, Account())
        return RewardsView(
            run=part.run.run_id.hex(),
            final=account.final_micro / MICRO,
            pending=account.pending_micro / MICRO,
            excluded=part.cases.is_excluded(part.me),
            batches=tuple(_batch(part, *row) for row in told[:limit]),
            rejected=dict(Counter(line.reason for line, *_ in told if line.state == "rejected")),
            states=dict(Counter(line.state for line, *_ in told)),
        )

    async def verdicts(self, run: str, limit: int) -> VerdictsView:
        part = self._part(run)
        views = []
        for entry, verdict in list(part.verdicts)[: -limit - 1 : -1]:
            case = part.cases.case(verdict.commitment)
            views.append(
                VerdictView(
                    commitment=verdict.commitment.hex(),
                    worker=peerid.to_text(case.worker) if case else "",
                    counter=case.body.counter if case else -1,
                    verifier=peerid.to_text(entry.author),
                    outcome=verdict.outcome,
                    reason=verdict.reason,
                    round=verdict.round,
                    measurements=verdict.measurements,
                )
            )
        return VerdictsView(run=part.run.run_id.hex(), verdicts=tuple(views))

    def _part(self, run: str) -> Participation:
        found = self._joining.find(run)
        part = self._joining.parts.get(found.run_id)
        if part is None:
            raise UserError(f"run {found.spec.name} is not joined", "join it: primed runs join")
        return part

    async def stop(self) -> StoppingView:
        self._stop.set()
        return StoppingView(pid=os.getpid())


def _state_of(problems: Sequence[ProblemView]) -> str:
    names = list(dict.fromkeys(problem.name for problem in problems))
    return f"degraded: {', '.join(names)}" if names else "ok"


def _warning(run: Run) -> str:
    open_verifiers = run.spec.admission.verifier == "open"
    return "NOT SYBIL-RESISTANT: anyone can be a verifier in this run" if open_verifiers else ""


def _transfers(part: Participation) -> tuple[TransferView, ...]:
    under_way = part.shardcast.under_way()
    names = part.payloads.names() if under_way else {}
    return tuple(
        TransferView(
            name=names.get(payload, f"payload {payload.root.hex()[:8]}"),
            size_bytes=payload.size_bytes,
            here_bytes=at.bytes_here,
            bytes_per_s=round(at.bytes_per_s, 1),
            left_s=at.left_s(payload.size_bytes),
            reason=at.reason,
        )
        for payload, at in under_way.items()
    )


def _batch(part: Participation, line: BatchLine, row: BatchRow, note: Note) -> BatchView:
    return BatchView(
        run=part.run.run_id.hex(),
        counter=line.counter,
        state=line.state,
        reason=line.reason,
        waits_for=line.waits_for,
        deadline_s=_deadline_s(part.cases.case(note.commitment)),
        version=row.version.hex(),
        tokens=line.tokens,
        reward_mean=note.reward_mean,
        credits=line.credits_micro / MICRO,
    )


def _deadline_s(case: Case | None) -> float | None:
    if case is None or case.now.deadline is None:
        return None
    return max(0.0, case.now.deadline - trio.current_time())
