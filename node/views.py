"""What the daemon shows of itself: the JSON of the local API, of `--json` and of the dashboard.

Every view is plain data: peer ids in base58, digests in hex, times as unix milliseconds or as
seconds that have passed. The daemon implements `NodeView`; `node.api` serves it and `node.cli`
prints it. Fields are only ever added, since scripts read them.
"""

from __future__ import annotations

from typing import Literal, Protocol

from msgspec import Struct

ChildState = Literal["starting", "ready", "busy", "restarting", "failed", "stopped"]
BatchState = Literal[
    "generating",
    "stored",
    "committed",
    "drawn",
    "not drawn",
    "usable",
    "payable",
    "vested",
    "rejected",
    "unavailable",
    "stale",
    "inconclusive",
    "skipped",
]


class _View(Struct, frozen=True, kw_only=True):
    pass


class WaitView(_View, frozen=True):
    """Something the node waits for. Every wait has a name and an end."""

    name: str  # "base checkpoint", "verdict on batch 12", ...
    waiting_for: str  # who or what, in a few words
    since_s: float
    deadline_s: float  # seconds left


class ProblemView(_View, frozen=True):
    """What is wrong, in one sentence, and what to do about it."""

    name: str  # short and stable: "no-peers", "child-oom", ...
    what: str
    fix: str


class ChildView(_View, frozen=True):
    """A worker process under the supervisor."""

    name: str  # unique in this daemon: "<kind>-<first 8 hex digits of the run>"
    kind: str  # engine | learner | verifier
    run: str
    pid: int | None
    state: ChildState
    busy_with: str
    busy_s: float
    restarts: int
    reason: str  # why it last stopped, in one sentence; "" if it never did
    restart_in_s: float = 0.0


class RoleView(_View, frozen=True):
    """A role held in a run, and what it is doing."""

    role: str
    run: str
    state: str
    reason: str = ""


class NetworkView(_View, frozen=True):
    state: Literal["online", "connecting", "alone"]
    reason: str
    listen: tuple[str, ...]
    peers: int
    gossip_received_bytes: int = 0
    gossip_sent_bytes: int = 0
    stream_received_bytes: int = 0
    stream_sent_bytes: int = 0
    bulk_received_bytes: int = 0
    bulk_sent_bytes: int = 0
    rejected: int = 0  # gossip messages refused
    handler_errors: int = 0
    peak_received_bytes_s: float = 0.0  # highest mean of 10 s, from and to other machines
    peak_sent_bytes_s: float = 0.0
    reachability: str = "unknown"  # public | upnp | local | relayed | outbound
    reachability_evidence: str = ""  # who dialled back, or could not
    reachability_consequence: str = ""  # what follows for others and for this node
    bootstrap: tuple[str, ...] = ()  # given to find the swarm by: settings, flags and invite
    upnp: str = ""  # what came of asking the router to let others in
    mdns: str = ""  # how it stands with finding peers on the local network


class VersionView(_View, frozen=True):
    """A policy version, as its manifest tells."""

    version: str
    learner: str
    step: int
    kind: str
    reward_mean: float
    batches: int  # consumed by its step
    held: bool  # the weights are on this machine


class AccountView(_View, frozen=True):
    """What the ledger holds for one key, in credits."""

    peer: str
    roles: tuple[str, ...]
    final: float
    pending: float
    excluded: bool
    reason: str = ""  # why it is excluded
    batches_usable: int = 0  # since this daemon started
    batches_rejected: int = 0


class TransferView(_View, frozen=True):
    """A payload on its way to this node."""

    name: str  # "snapshot of step 16", "delta of steps 16 to 20", ...
    size_bytes: int
    here_bytes: int
    bytes_per_s: float  # lately
    left_s: float | None  # for the rest at this rate; null while nothing comes
    reason: str  # what it waits for


class RunView(_View, frozen=True):
    """A run this node knows."""

    run: str
    name: str
    originator: str
    joined: bool
    roles: tuple[str, ...]  # held by this node
    state: str  # "waiting" | "running" | "unstable" | "finished" | "known"
    reason: str = ""
    newest: VersionView | None = None
    lag_steps: int = 0  # newest version's step less the step this node has
    reward_first: float | None = None  # mean of the first five versions
    reward_last: float | None = None  # mean of the last five
    versions: int = 0
    batches_usable: int = 0
    batches_rejected: int = 0
    cut: int = 0
    state_root: str = ""
    excluded: tuple[str, ...] = ()
    accounts: tuple[AccountView, ...] = ()  # in `runs show` only
    recent: tuple[VersionView, ...] = ()  # newest first, at most 32; in `runs show` only
    invite: str = ""
    warning: str = ""  # for example NOT SYBIL-RESISTANT
    pushed_bytes: int = 0  # shards received by gossip
    pulled_bytes: int = 0  # shards received by asking peers
    amplification: float = 0.0  # bytes of shards received, for each that was new; 0 before any
    transfers: tuple[TransferView, ...] = ()  # payloads on their way


class StatusView(_View, frozen=True):
    version: str  # of primed
    peer: str
    pid: int
    data_dir: str
    uptime_s: float
    network: NetworkView
    roles: tuple[RoleView, ...] = ()
    children: tuple[ChildView, ...] = ()
    runs: tuple[RunView, ...] = ()
    waits: tuple[WaitView, ...] = ()
    problems: tuple[ProblemView, ...] = ()
    invite: str = ""  # of the swarm: what others give to `primed start --join`
    state: str = "ok"  # "ok", or "degraded: " and the names of the open problems


class PeerView(_View, frozen=True):
    peer: str
    addresses: tuple[str, ...]
    direction: str  # in | out
    connected_s: float
    score: float
    roles: tuple[str, ...] = ()  # announced in hello
    runs: tuple[str, ...] = ()
    clock_offset_s: float | None = None  # its clock less ours, as of its newest record
    note: str = ""  # why it is not (wholly) understood: other versions, a refusal
    lane: str = "streams"  # or bulk: what payloads from and to it travel on
    lane_reason: str = ""


class PeersView(_View, frozen=True):
    peers: tuple[PeerView, ...]


class IdentityView(_View, frozen=True):
    peer: str
    addresses: tuple[str, ...]  # multiaddrs others can dial
    data_dir: str


class RunsView(_View, frozen=True):
    runs: tuple[RunView, ...]


class BatchView(_View, frozen=True):
    """One batch of this node's own, in the words of docs/contributor.md."""

    run: str
    counter: int
    state: BatchState
    reason: str  # why it is in this state
    waits_for: str  # what has to happen next; "" in an end state
    deadline_s: float | None  # seconds until that is given up
    version: str
    tokens: int
    reward_mean: float
    credits: float


class RewardsView(_View, frozen=True):
    """What this node has earned. `rejected` by reason."""

    run: str
    final: float
    pending: float
    excluded: bool
    batches: tuple[BatchView, ...]  # newest first
    rejected: dict[str, int]
    states: dict[str, int]  # batches in each state


class VerdictView(_View, frozen=True):
    commitment: str
    worker: str
    counter: int
    verifier: str
    outcome: str
    reason: str
    round: int
    measurements: dict[str, float]


class VerdictsView(_View, frozen=True):
    run: str
    verdicts: tuple[VerdictView, ...]  # newest first


class StoppingView(_View, frozen=True):
    pid: int
    stopping: bool = True


class ErrorView(_View, frozen=True, kw_only=False):
    """What any command prints with --json when it cannot do its work, and the body of every answer
    of the API that is not 200. `code` is the exit code."""

    error: str
    hint: str = ""
    code: int = 1


View = (
    StatusView
    | PeersView
    | IdentityView
    | RunsView
    | RunView
    | RewardsView
    | VerdictsView
    | StoppingView
)


class NodeView(Protocol):
    """What the local API may ask of a daemon. Runs are named by id in hex, a unique prefix of it
    (8 digits or more) or their name. Each method raises UserError for what the user can mend."""

    async def status(self) -> StatusView: ...

    async def peers(self) -> PeersView: ...

    async def identity(self) -> IdentityView: ...

    async def runs(self) -> RunsView: ...

    async def run(self, run: str) -> RunView:
        """With accounts and recent versions."""

    async def join(self, target: str, roles: tuple[str, ...]) -> RunView:
        """Join a run by id or invite; no roles: those that it lists this key for, else worker."""

    async def publish(self, spec_path: str) -> RunView:
        """Sign a RunSpec file (TOML or JSON) and offer the run to the swarm."""

    async def rewards(self, run: str, limit: int) -> RewardsView:
        """`run` "" is the only run that was joined."""

    async def verdicts(self, run: str, limit: int) -> VerdictsView: ...

    async def stop(self) -> StoppingView:
        """Begin an orderly stop and return at once."""
