"""Which runs this node knows and takes part in: finding a RunSpec, choosing roles, starting tasks.

A RunSpec comes from a peer by its id (checked against the id and its signature), or from this node
itself when it publishes one. Joining starts a `Participation` with a task, and a child where
needed, for each role.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import structlog
import trio

from primed.node.config import DISHONEST_VARIABLE
from primed.node.doppelganger import Doubles
from primed.node.invite import Invite, parse_invite
from primed.node.participation import Participation, RoleTask
from primed.node.roles.cache import Cache
from primed.node.roles.learner import Learner
from primed.node.roles.originator import Originator
from primed.node.roles.verifier import Verifier
from primed.node.roles.worker import Worker
from primed.node.runfile import build_spec, read_run_file, weights_path
from primed.node.services import Services
from primed.node.supervisor import Child
from primed.p2p import peerid
from primed.p2p.errors import RemoteError, UserError
from primed.protocols import versions
from primed.protocols.disk import on_disk
from primed.protocols.hello import Hello, NodeRecord
from primed.protocols.limits import RECORD_LIFE_S
from primed.training import environments
from primed.training.errors import BadConfig
from primed.training.messages import ChildKind, Configure
from primed.verify.runspec import Role, Run, SignedRun, decode_run, sign_run

FIND_S = 60.0  # to find somebody who has a RunSpec
RETRY_S = 1.0
PROVIDE_S = 600.0
RUNS_TOLD = 64  # in our record
RUNS_LEARNED = 64  # from peers' records; not kept on disk, so that no peer can fill it
RUNS_LEARNED_FROM = 8  # one peer
CHILD_KINDS: dict[Role, ChildKind] = {
    "worker": "engine",
    "learner": "learner",
    "verifier": "verifier",
}
_log = structlog.get_logger("primed.joining")


class Joining:
    def __init__(
        self, services: Services, nursery: trio.Nursery, session: bytes, doubles: Doubles
    ) -> None:
        """session, doubles: this life of the daemon, and others with its key."""
        self.known: dict[bytes, Run] = {}
        self.parts: dict[bytes, Participation] = {}
        self._services = services
        self._nursery = nursery
        self._session = session
        self._doubles = doubles
        self._children: dict[str, Child] = {}
        self._turn = trio.Lock()  # a run is joined once, whoever asks for it meanwhile
        self._learned: dict[bytes, bytes] = {}  # runs not joined -> who told them, oldest first
        self._published: set[bytes] = set()  # by this daemon, since it was started
        self.hello = Hello(
            services.network,
            self._record,
            services.identity.sign,
            lambda: {run_id: run.signed for run_id, run in self.known.items()},
            services.wall_clock,
        )
        self.hello.on_record(self._on_record)

    # ---- hello -----------------------------------------------------------------------------

    def _record(self) -> NodeRecord:
        now = self._services.wall_clock()
        roles = {role for part in self.parts.values() for role in part.roles}
        return NodeRecord(
            peer=self._services.identity.peer,
            roles=tuple(sorted(roles)),
            protocols=versions.SPOKEN,
            addresses=self._services.addresses()[:16],
            runs=tuple(self.parts)[:RUNS_TOLD],
            profile="torch",
            sequence=now,
            expires_unix_ms=now + int(RECORD_LIFE_S * 1000),
            session=self._session,
            since_unix_ms=self._doubles.since_unix_ms,
            others=self._doubles.named,
        )

    def _on_record(self, record: NodeRecord) -> None:
        self._services.clocks.observe(record.peer, record.sequence, self._services.wall_clock())
        for run_id in record.runs:
            from_peer = sum(teller == record.peer for teller in self._learned.values())
            is_new = run_id not in self.known and run_id not in self._learned
            if is_new and from_peer < RUNS_LEARNED_FROM:
                self._learned[run_id] = record.peer
                self._nursery.start_soon(self._learn_run, record.peer, run_id)

    async def _learn_run(self, peer: bytes, run_id: bytes) -> None:
        """So that it can be joined by name. The newest take the places of the oldest."""
        try:
            run = await self.hello.get_run(peer, run_id)
        except RemoteError as error:
            _log.debug("no RunSpec", peer=peerid.short(peer), reason=error.reason)
            self._learned.pop(run_id, None)
            return
        if run_id not in self._learned:
            return  # others took its place meanwhile, or it was joined
        self.known[run_id] = run
        while len(self._learned) > RUNS_LEARNED:
            oldest = next(iter(self._learned))
            del self._learned[oldest]
            self.known.pop(oldest, None)  # not there while its RunSpec is asked for

    async def _remember(self, run: Run) -> None:
        await on_disk(
            self._services.store.runs.add, run.run_id, run.signed, self._services.wall_clock()
        )
        self.known[run.run_id] = run
        self._learned.pop(run.run_id, None)

    # ---- joining ---------------------------------------------------------------------------

    async def rejoin(self) -> None:
        """Go on with the runs that were joined when the daemon last ran."""
        for row in await on_disk(self._services.store.runs.all):
            if row.joined_unix_ms is not None:
                run = decode_run(SignedRun(row.signed.spec, row.signed.signature))
                self.known[run.run_id] = run
                self._start(run, self.roles_for(run, row.roles))

    async def join_invited(self, invite: Invite) -> None:
        """Join the invite's run as soon as somebody gives its RunSpec; a problem until then."""
        assert invite.run is not None
        while True:
            try:
                await self._join(invite.run, invite.addresses, ())
                self._services.problems.clear("join")
                return
            except UserError as error:
                self._services.problems.raise_("join", error.message, error.hint)
                await trio.sleep(RETRY_S)

    async def join(self, target: str, roles: tuple[str, ...]) -> Run:
        """Join by run id, its prefix, a known run's name, or an invite. Raises UserError."""
        wanted = tuple(self._as_role(role) for role in roles if role != "auto")
        if target.startswith("primed://"):
            invite = parse_invite(target)
            if invite.run is None:
                raise UserError("this invite names a swarm, not a run", "give a run's invite or id")
            return await self._join(invite.run, invite.addresses, wanted)
        known = [run for run in self.known.values() if self._is_named(run, target)]
        if len(known) == 1:
            return await self._join(known[0].run_id, (), wanted)
        try:
            run_id = bytes.fromhex(target)
        except ValueError:
            run_id = b""
        if len(run_id) != 32 or known:
            found = "several runs" if known else "no run"
            hint = "see `primed runs list`, or give the whole id or an invite"
            raise UserError(f"{found} called {target!r}", hint)
        return await self._join(run_id, (), wanted)

    def find(self, target: str) -> Run:
        """A known run by id, prefix of 8 digits or more, or name; "" is the only one joined."""
        if not target:
            joined = [self.known[run_id] for run_id in self.parts]
            if len(joined) != 1:
                raise UserError(
                    f"{len(joined)} runs are joined", "name one: see `primed runs list`"
                )
            return joined[0]
        found = [run for run in self.known.values() if self._is_named(run, target)]
        if len(found) != 1:
            what = "no run is" if not found else "several runs are"
            raise UserError(f"{what} called {target!r}", "see `primed runs list`")
        return found[0]

    def _is_named(self, run: Run, target: str) -> bool:
        by_prefix = len(target) >= 8 and run.run_id.hex().startswith(target.lower())
        return by_prefix or run.spec.name == target

    async def _join(
        self, run_id: bytes, addresses: tuple[str, ...], roles: tuple[Role, ...]
    ) -> Run:
        run = self.known.get(run_id) or await self._find_spec(run_id, addresses)
        await self._check_environments(run)
        wanted = self.roles_for(run, roles)
        async with self._turn:
            if run_id in self.parts:
                if roles and set(self.parts[run_id].roles) != set(wanted):
                    held = ", ".join(self.parts[run_id].roles)
                    text = f"the run is joined already as {held}"
                    raise UserError(text, "restart to change roles")
                return run
            await self._remember(run)
            runs = self._services.store.runs
            await on_disk(runs.join, run_id, roles or ("auto",), self._services.wall_clock())
            self._start(run, wanted)
        return run

    async def _find_spec(self, run_id: bytes, addresses: tuple[str, ...]) -> Run:
        """Ask the invite's peers, everyone connected, and the DHT's providers of the run."""
        network, waits = self._services.network, self._services.waits
        name = f"RunSpec {run_id.hex()[:8]}"
        deadline = trio.current_time() + FIND_S
        reasons: dict[str, None] = {}
        with waits.named(name, "a peer that knows the run", FIND_S):
            while trio.current_time() < deadline:
                with trio.move_on_at(deadline):
                    await self._connect_all(addresses, reasons)
                    for info in network.peers():
                        try:
                            return await self.hello.get_run(info.peer, run_id)
                        except RemoteError as error:
                            reasons[f"{peerid.short(info.peer)}: {error.reason}"] = None
                    for _, found in await network.find_providers(run_id, 8):
                        await self._connect_all(found[:1], reasons)
                    await trio.sleep(RETRY_S)
        said = "; ".join(list(reasons)[-3:]) or network.state()[1]
        text = f"nobody gave the RunSpec {run_id.hex()[:16]} within {FIND_S:.0f} s ({said})"
        raise UserError(text, "check the id, or use an invite of somebody who is online")

    async def _connect_all(self, addresses: tuple[str, ...], reasons: dict[str, None]) -> None:
        for address in addresses:
            try:
                await self._services.network.connect(address)
            except RemoteError as error:
                reasons[f"{address}: {error.reason}"] = None

    async def _check_environments(self, run: Run) -> None:
        try:
            await on_disk(environments.load_all, run.spec.environments)
        except BadConfig as error:
            hint = "pip install the package with this environment, then join again"
            raise UserError(str(error), hint) from error

    def _as_role(self, role: str) -> Role:
        try:
            known_role: Role = msgspec.convert(role, Role)
            return known_role
        except msgspec.ValidationError as error:
            known = "worker, learner, verifier, originator, relay"
            raise UserError(f"there is no role {role!r}", f"roles: {known}") from error

    def roles_for(self, run: Run, wanted: tuple[Any, ...]) -> tuple[Role, ...]:
        """Roles to hold: those asked for (or configured), else those the run lists this key for,
        else worker. Raises UserError for one that the run does not admit this key to."""
        me = self._services.identity.peer
        listed: set[Role] = {e.role for e in run.spec.admission.listed if e.peer == me}
        if run.spec.originator == me:
            listed.add("originator")
        asked = [role for role in (wanted or self._services.config.roles) if role != "auto"]
        chosen: set[Role] = set(asked) or listed or {"worker"}
        if run.spec.originator == me:
            chosen.add("originator")
        for role in chosen:
            is_open = role == "relay" or (role == "worker" and run.spec.admission.worker == "open")
            if not is_open and role not in listed:
                text = f"run {run.spec.name} does not admit this key as {role}"
                me_text = peerid.to_text(me)
                raise UserError(text, f"ask the originator to list {me_text}, or join as worker")
        return tuple(sorted(chosen))

    # ---- starting --------------------------------------------------------------------------

    def _start(self, run: Run, roles: tuple[Role, ...]) -> None:
        is_new = run.run_id in self._published
        self.parts[run.run_id] = Participation(self._services, run, roles, is_new=is_new)
        self.hello.announce()
        name = f"run {run.spec.name}"
        keep = self._services.keep_running
        self._nursery.start_soon(keep, name, lambda: self._take_part(run, roles))
        self._nursery.start_soon(keep, f"{name} in the DHT", lambda: self._provide(run.run_id))
        _log.info("joined", run=run.run_id.hex()[:8], name=run.spec.name, roles=roles)

    async def _take_part(self, run: Run, roles: tuple[Role, ...]) -> None:
        """After a failure the run's state is built anew from the store."""
        if self.parts[run.run_id].is_spent:
            self.parts[run.run_id] = Participation(self._services, run, roles)
        await self.parts[run.run_id].serve(self._make_tasks)

    async def _provide(self, run_id: bytes) -> None:
        while True:
            await self._services.network.provide(run_id)
            await trio.sleep(PROVIDE_S if self._services.network.peers() else 10 * RETRY_S)

    def _make_tasks(self, part: Participation) -> list[RoleTask]:
        tasks: list[RoleTask] = []
        for role in part.roles:
            kind = CHILD_KINDS.get(role)
            if kind is None:
                tasks.append(Originator(part) if role == "originator" else Cache(part))
                continue
            name = f"{kind}-{part.run.run_id.hex()[:8]}"
            child = self._children.get(name)
            if child is None:
                child = self._services.supervisor.start(name, self._configure(part, kind))
                self._children[name] = child
            if role == "worker":
                tasks.append(Worker(part, child))
            elif role == "learner":
                tasks.append(Learner(part, child))
            else:
                tasks.append(Verifier(part, child, self._services.identity.seed))
        return tasks

    def _configure(self, part: Participation, kind: ChildKind) -> Configure:
        return Configure(
            id=0,
            kind=kind,
            spec=part.run.signed.spec,
            run_id=part.run.run_id,
            peer=part.me,
            threads=self._services.config.threads,
            niceness=self._services.config.niceness,
            # The child refuses it in a run that is no toy, and says so.
            dishonest=kind == "engine" and DISHONEST_VARIABLE in os.environ,
        )

    # ---- publishing ------------------------------------------------------------------------

    async def publish(self, spec_path: str) -> Run:
        """Sign a run file, keep its base checkpoint, and take part as its originator."""
        path = Path(spec_path).expanduser().absolute()
        file = await on_disk(read_run_file, path)
        me = self._services.identity
        spec = await on_disk(build_spec, path, file, me.peer, self._services.wall_clock())
        run = sign_run(spec, me.sign)
        folder = self._services.paths.run(run.run_id)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        await on_disk(shutil.copyfile, weights_path(path, file), folder / "base.safetensors")
        self._published.add(run.run_id)
        await self._remember(run)
        return await self._join(run.run_id, (), ())
