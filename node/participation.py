"""Taking part in one run: its event log, what follows from the events, and who reacts.

Events are the only input of a run's state. Each one that is stored (own or foreign, live or at
start) goes through `_observe`, which feeds the views of the run: `lineages` (policy versions),
`cases` (verdicts), `ledger` (cuts) and the node's own batches. Roles are tasks that look at those
views and wake by `changes`. Payloads and batches travel by protocols; children do the tensors.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from typing import Protocol

import structlog
import trio

from primed.node.ledger import LedgerKeeper
from primed.node.own_batches import OwnBatches
from primed.node.pace import Pace
from primed.node.payload_news import PayloadNews
from primed.node.policies import Policies
from primed.node.services import Services
from primed.node.tallies import Tallies
from primed.node.views import RoleView
from primed.node.waits import Changes
from primed.p2p import peerid
from primed.protocols.events import EventLog
from primed.protocols.rollouts import Rollouts
from primed.protocols.shardcast import PayloadStore, Shardcast
from primed.verify.cases import Case
from primed.verify.ledger import State
from primed.verify.lineage import Lineages
from primed.verify.rendezvous import ranked
from primed.verify.runspec import Role, Run
from primed.verify.statements import Committed, Entry, Joined, Manifest, Verdict
from primed.verify.verdicts import Cases

TICK_S = 0.2
RECOVER_S, ALONE_S = 10.0, 1.0  # to learn the node's own head from peers, if there are any
TIDY_S = 5.0
VERDICTS_KEPT = 1000
DELTAS_KEPT = 16  # newest deltas that are served, whatever snapshots there are
VERSIONS_KEPT = 8  # steps of weights kept beyond the staleness bound
_log = structlog.get_logger("primed.run")


class RoleTask(Protocol):
    """A role in this run."""

    name: Role

    def view(self) -> RoleView: ...

    async def run(self) -> None: ...


class Participation:
    def __init__(
        self, services: Services, run: Run, roles: tuple[Role, ...], *, is_new: bool = False
    ) -> None:
        """is_new: this daemon has just published the run, so no peer can know its chain better."""
        self.run = run
        self.roles = roles
        self.me = services.identity.peer
        self.folder = services.paths.run(run.run_id)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.store, self.waits, self.problems = services.store, services.waits, services.problems
        self.metrics = services.metrics
        self.changes = Changes(services.waits)
        self.lineages = Lineages(run)
        self.cases = Cases(run)
        self.own = OwnBatches(run, self.me, services.store)
        self.pace = Pace(run, self.me)
        self.tallies = Tallies()
        self.tasks: list[RoleTask] = []
        self.is_spent = False  # it was served: serve a new one
        self.unnamed = trio.Lock()  # held while a payload is here that no manifest names yet
        self.verdicts: deque[tuple[Entry, Verdict]] = deque(maxlen=VERDICTS_KEPT)
        self.joined: dict[bytes, tuple[Role, ...]] = {}  # peer -> roles it stated
        self._stirred = trio.Event()  # deadlines of cases may have changed
        self._services = services
        self._is_new = is_new
        self._heard: dict[bytes, float] = {}  # learner -> when its last manifest came
        self._case_listeners: list[Callable[[Case], None]] = []
        servers, sign = services.servers, services.identity.sign
        rng = random.Random(self.me)
        self.events = EventLog(
            *(servers, services.store.events, run.run_id, self.me, sign, services.wall_clock, rng),
            originator=run.spec.originator,
        )
        self.ledger = LedgerKeeper(
            run, services.store, self.changes, services.problems, self.events.branch
        )
        store = PayloadStore(self.folder / "payloads")
        self.shardcast = Shardcast(servers, store, run.run_id, self.me, sign, rng)
        self.payloads = PayloadNews(
            run.spec.name,
            self.shardcast,
            self.lineages,
            self.retained,
            self.metrics,
            services.disk,
        )
        self.rollouts = Rollouts(
            servers,
            run.run_id,
            self.me,
            sign,
            self.folder / "batches",
            self._why_not_hold,
            self.cases.is_member,
        )
        self.policies = Policies(
            self.lineages, self.shardcast, self.folder / "weights", services.waits
        )

    # ---- life ------------------------------------------------------------------------------

    async def serve(self, make_tasks: Callable[[Participation], list[RoleTask]]) -> None:
        """Take part until cancelled."""
        self.is_spent = True
        await self.ledger.load()
        self.cases.adopt(self.ledger.state, trio.current_time())
        await self.events.load()
        await self.events.replay(self._observe)
        for author, seq in self.events.voids().items():
            self._void(author, seq, None)
        self.events.on_entry(self._observe)
        self.events.on_equivocation(self._void)
        self.ledger.on_state(self._adopt)
        await self.own.take_up(self.cases)
        for learner in self.run.peers("learner"):
            if learner != self.me:
                self.shardcast.follow(learner)
        async with trio.open_nursery() as nursery:
            for name, service in (
                ("events", self.events.run),
                ("shardcast", self.shardcast.run),
                ("ledger", self.ledger.run),
                ("cases", self._tick),
                ("tidy", self._tidy),
                ("payloads", self.payloads.run),
            ):
                nursery.start_soon(self._services.keep_running, name, service)
            if not self._is_new:
                await self._recover_own_head()
            await self._services.alone.wait()  # before anything is signed; named by who sets it
            if self.joined.get(self.me) != self.roles:
                await self.events.emit(Joined(roles=self.roles, profile="torch"))
            self.tasks = make_tasks(self)
            for task in self.tasks:
                nursery.start_soon(self._services.keep_running, task.name, task.run)

    async def _recover_own_head(self) -> None:
        is_alone = self._services.network.state()[0] == "alone"
        within_s = ALONE_S if is_alone else RECOVER_S
        with self.waits.named("own head", "peers that know this node's chain", within_s):
            recovery = await self.events.recover_own_head(within_s)
        _log.info("own head", run=self.run.run_id.hex()[:8], recovery=str(recovery))

    async def _tick(self) -> None:
        """Let local deadlines pass: at the next one there is, which an event may change."""
        while True:
            self._stirred = trio.Event()
            deadline = self.cases.next_deadline()
            with trio.move_on_at(math.inf if deadline is None else deadline):
                await self._stirred.wait()
            await trio.sleep(TICK_S)  # each look is at all cases
            self.cases.advance(trio.current_time())
            self._tell_cases()

    # ---- events ----------------------------------------------------------------------------

    def _observe(self, entry: Entry) -> None:
        body = entry.body
        self.lineages.observe(entry)
        self.cases.observe(entry, trio.current_time())
        self.ledger.observe(entry)
        self.own.observe(entry)
        self.pace.observe(entry, trio.current_time())
        if isinstance(body, Joined):
            self.joined[entry.author] = body.roles
        elif isinstance(body, Verdict):
            self.verdicts.append((entry, body))
        elif isinstance(body, Manifest):
            self._heard[entry.author] = trio.current_time()
        elif isinstance(body, Committed):
            self.rollouts.commit(entry.author, body.counter, body.batch)
        self._tell_cases()
        self._stirred.set()
        self.changes.notify()

    async def _adopt(self, state: State) -> None:
        """A cut was folded."""
        self.cases.adopt(state, trio.current_time())
        for settled in state.settled:
            if settled.worker == self.me:
                await self.own.settle(settled)
        self._tell_cases()
        self._stirred.set()

    def _void(self, author: bytes, seq: int, proof: object) -> None:
        self.ledger.forks[author] = seq
        self.cases.void(author, seq, trio.current_time())
        self._stirred.set()
        name = f"equivocation-{peerid.short(author)}"
        what = f"{peerid.short(author)} signed two different events with number {seq}"
        self.problems.raise_(name, what, "its statements from there on are void; nothing to do")

    def _tell_cases(self) -> None:
        changed = self.cases.changes()
        for case in changed:
            self.own.observe_case(case)
            if case.worker == self.me:
                self.metrics.batches.labels(self.run.spec.name, case.state).inc()
            self.tallies.observe(case)
            for listener in self._case_listeners:
                listener(case)
        if changed:
            self.changes.notify()

    def on_case(self, listener: Callable[[Case], None]) -> None:
        """Call it with every case there is, and with each whose state or use changes."""
        self._case_listeners.append(listener)
        for case in self.cases.all():
            listener(case)

    # ---- what roles ask --------------------------------------------------------------------

    def learner_of(self, worker: bytes) -> bytes:
        """The worker's learner: the first by weighted rendezvous, of those that have steps left; the
        second while that one is away and has been silent for `silent_learner_s`."""
        order = ranked(self.run.peers("learner"), "learner", self.run.run_id, worker)
        order = [learner for learner in order if not self.is_done(learner)] or order
        if len(order) > 1 and self._is_silent(order[0]):
            return order[1]
        return order[0]

    def _is_silent(self, learner: bytes) -> bool:
        age_s = trio.current_time() - self._heard.get(learner, 0.0)
        return not self.is_connected(learner) and (
            age_s > self.run.spec.parameters.silent_learner_s
        )

    def has_room(self, learner: bytes) -> bool:
        """Whether this worker may make one more batch for the learner."""
        window = self.pace.window(learner, self.cases.is_excluded, trio.current_time())
        return self.own.unused(learner) < window

    def is_done(self, learner: bytes) -> bool:
        """Whether its lineage has made the run's last step."""
        last = self.run.spec.training.max_steps
        return bool(last) and self.lineages.newest_step(learner) >= last

    def is_finished(self) -> bool:
        """Whether every lineage has."""
        return all(map(self.is_done, self.run.peers("learner")))

    def is_connected(self, peer: bytes) -> bool:
        return any(info.peer == peer for info in self._services.network.peers())

    def holders(self) -> list[bytes]:
        """Connected peers that hold batches for others: verifiers and relays of this run."""
        connected = {info.peer for info in self._services.network.peers()}
        return [
            peer
            for peer, roles in self.joined.items()
            if peer in connected and {"verifier", "relay"} & set(roles)
        ]

    def version_fault(self, case: Case) -> str | None:
        """ "" if the versions that a commitment names are right, else why not; None while a
        manifest it names has not arrived."""
        if not self.lineages.names_known_versions(case.body):
            return None
        earlier = [
            self.lineages.step_of(other.body.seen) or 0
            for other in self.cases.of_worker(case.worker)
            if other.body.counter < case.body.counter and other.body.learner == case.body.learner
        ]
        return self.lineages.version_fault(case.body, max(earlier, default=0))

    async def rest(self, role: Role, why: str) -> None:
        """Stop a role that this machine cannot hold, until the daemon is started again."""
        what = f"this node's {role} in run {self.run.spec.name} has stopped: {why}"
        fix = "give it a machine with more memory or fewer roles (--roles), and start again"
        self.problems.raise_(f"{role}-stopped", what, fix)
        await trio.sleep_forever()

    def _why_not_hold(self, worker: bytes, counter: int) -> str:
        """ "" if this node holds batches of that worker, else why not."""
        if self.cases.is_excluded(worker):
            return "excluded from this run for fraud"
        return ""

    # ---- telling ---------------------------------------------------------------------------

    def describe(self) -> tuple[str, str]:
        """(state, reason) of the run as `primed status` shows it."""
        if self.lineages.base is None:
            return "waiting", "the originator's base checkpoint has not been announced yet"
        step = max(self.lineages.newest_step(learner) for learner in self.run.peers("learner"))
        last = self.run.spec.training.max_steps
        if self.is_finished():
            return "finished", f"step {step} of {last}"
        return "running", f"step {step}" + (f" of {last}" if last else "")

    def lag_steps(self) -> int:
        """Steps between the newest version and the newest whose weights are here."""
        lags = []
        for learner in self.run.peers("learner"):
            at, lag = self.lineages.newest(learner), 0
            while at is not None and not self.policies.has(at):
                parents = self.lineages.manifests[at].parents
                at, lag = (parents[0] if parents else None), lag + 1
            lags.append(lag)
        return max(lags, default=0)

    # ---- keeping the disk small ------------------------------------------------------------

    async def _tidy(self) -> None:
        while True:
            await trio.sleep(TIDY_S)
            await self.policies.prune(self._wanted_versions())
            async with self.unnamed:
                kept = {part.root for manifest in self.retained() for part in manifest.payloads()}
                await self.shardcast.retain(kept)
            await self._forget_batches()
            self.tallies.prune(lambda commitment: self.cases.case(commitment) is not None)

    async def _forget_batches(self) -> None:
        """Delete batches that were used or came to an end, once nobody can still be checking
        them; those rejected as fraud stay, as evidence."""
        parameters = self.run.spec.parameters
        settled_s = parameters.claim_s + 2 * parameters.verdict_s
        done: list[Case] = []
        needed: set[bytes] = set()  # batches that another commitment may name, too
        for case in self.cases.all():
            is_over = case.used_by or case.state in ("stale", "unavailable", "inconclusive")
            if is_over and trio.current_time() > case.seen + settled_s:
                done.append(case)
            elif case.state != "rejected":
                needed.add(case.body.batch)
        for case in done:
            batch = case.body.batch
            if self.rollouts.path(batch) is not None:
                await self.rollouts.forget(
                    case.worker, case.body.counter, batch, fetched=batch not in needed
                )

    def retained(self) -> list[Manifest]:
        """Manifests whose payloads are kept and served, of all lineages; newest first."""
        leased = self.cases.leased_versions()
        return [
            manifest
            for learner in self.run.peers("learner")
            for manifest in self.lineages.retained(learner, leased, DELTAS_KEPT)
        ]

    def _wanted_versions(self) -> set[bytes]:
        """Weights to keep: the newest steps, what open cases name, the base checkpoint, and of an
        own lineage the newest snapshot, where merged deltas start."""
        wanted = self.cases.leased_versions()
        steps = self.run.spec.parameters.max_staleness + VERSIONS_KEPT
        for learner in self.run.peers("learner"):
            at = self.lineages.newest(learner)
            for _ in range(steps):
                if at is None:
                    break
                wanted.add(at)
                parents = self.lineages.manifests[at].parents
                at = parents[0] if parents else None
        own = self.lineages.newest_snapshot(self.me) if "learner" in self.roles else None
        return wanted | {version for version in (self.lineages.base, own) if version is not None}
