"""The ledger's state after a cut: small immutable records and the root that commits to all of them.

Root of cut 0 is the run id. Later roots are Merkle roots: leaf 0 is a digest over everything that
the next fold depends on, leaves 1.. are the accounts in peer order, so that a balance is claimable
with a path of log2(accounts) hashes. A state survives `encode_state`/`decode_state` unchanged.
Kept per open or unvested batch: about 0.4 kB; per closed batch, once: a Settled record (0.1 kB).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec
from msgspec import Struct

from primed.verify import merkle
from primed.verify.decision import Opinion, Terms
from primed.verify.digests import digest, joined, u64
from primed.verify.runspec import Parameters, Run
from primed.verify.statements import Claim, Head, Rejected, Verdict

CUT_LAG = 3  # a commitment may name a cut this much older than the newest
GAP_LIMIT = 64  # commitments of one worker that may wait for an earlier counter

BatchState = Literal[
    "committed", "payable", "vested", "rejected", "unavailable", "stale", "inconclusive"
]
OPEN: tuple[BatchState, ...] = ("committed", "payable")


class _Record(Struct, frozen=True, array_like=True):
    pass


class Account(_Record, frozen=True):
    """Micro-credits of one peer: spendable, unvested, and destroyed after fraud."""

    final_micro: int = 0
    pending_micro: int = 0
    burned_micro: int = 0


class Worker(_Record, frozen=True):
    """What the ledger knows of one worker."""

    next_counter: int = 0  # all counters below are committed or skipped
    beyond: dict[int, bytes] = {}  # later counters: commitment, or b"" if skipped
    skipped: int = 0
    accepted: int = 0  # payable batches since the start, the last fraud or a re-admission
    freed_cut: int | None = None  # first cut whose state has it off probation
    excluded: bool = False
    fraud_counters: tuple[int, ...] = ()

    def on_probation(self, cut: int) -> bool:
        """As of the cut that a commitment names."""
        return self.freed_cut is None or cut < self.freed_cut


class Batch(_Record, frozen=True):
    """An open, unvested or recently closed batch with the facts about it."""

    worker: bytes
    learner: bytes
    counter: int
    version: bytes
    tokens: int
    cut: int  # named by the commitment
    on_probation: bool
    is_stored: bool  # at least one receipt of another peer verifies
    joined: int  # cut that holds the commitment
    entered: int = 0  # cut by which all earlier counters were accounted for; 0: not yet
    state: BatchState = "committed"
    reason: str = ""
    credits_micro: int = 0
    decided: int = 0  # cut that left `committed`
    closed: int = 0  # cut of the terminal state
    claims: tuple[bytes, ...] = ()  # verifiers with a valid claim, sorted
    verdicts: dict[bytes, Opinion] = {}
    refusal: str = ""  # the learner's reason
    used_by: bytes = b""  # version that consumed it


class Settled(_Record, frozen=True):
    """A closed batch's last word, for the daemon to keep."""

    commitment: bytes
    worker: bytes
    counter: int
    state: BatchState
    reason: str
    tokens: int
    credits_micro: int  # what it earned; burned if `rejected`
    cut: int


class Version(_Record, frozen=True):
    learner: bytes
    step: int


class UnpaidVersion(_Record, frozen=True):
    """A policy version that earns its price once all it consumed is payable."""

    learner: bytes
    consumed: tuple[bytes, ...]
    joined: int


class Lot(_Record, frozen=True):
    """Unvested credits that are not a batch's: for verdicts and versions."""

    cut: int
    micro: int


class Orphan(_Record, frozen=True):
    """A fact about a commitment that no cut holds yet."""

    author: bytes
    seq: int
    cut: int
    body: Claim | Verdict | Rejected


class Epoch(_Record, frozen=True):
    """What a commitment that names this cut is judged by."""

    root: bytes
    verifiers: dict[bytes, int]


class State(Struct, frozen=True, array_like=True):
    """See the module's docstring. Tables are in key order. Treat the dicts as immutable."""

    run_id: bytes
    number: int
    remaining_micro: int  # of the budget
    heads: dict[bytes, Head]
    members: dict[str, dict[bytes, int]]  # role -> peer -> weight
    epochs: dict[int, Epoch]  # earlier cuts that open batches may name
    accounts: dict[bytes, Account]
    workers: dict[bytes, Worker]
    batches: dict[bytes, Batch]  # by commitment
    versions: dict[bytes, Version]
    newest: dict[bytes, bytes]  # learner -> version
    unpaid: dict[bytes, UnpaidVersion]
    lots: dict[bytes, tuple[Lot, ...]]
    orphans: tuple[Orphan, ...]
    history: bytes  # digest chain over all settled batches so far
    settled: tuple[Settled, ...]  # closed by this cut
    root: bytes = b""

    @property
    def burned_micro(self) -> int:
        return sum(account.burned_micro for account in self.accounts.values())

    def weights(self, role: str) -> dict[bytes, int]:
        return self.members.get(role, {})


def genesis(run: Run) -> State:
    """Cut 0, which everyone computes from the RunSpec."""
    return State(
        run_id=run.run_id,
        number=0,
        remaining_micro=run.spec.prices.budget,
        heads={},
        members={role: run.peers(role) for role in ("learner", "verifier", "worker")},
        epochs={},
        accounts={},
        workers={},
        batches={},
        versions={},
        newest={},
        unpaid={},
        lots={},
        orphans=(),
        history=run.run_id,
        settled=(),
        root=run.run_id,
    )


def open_cuts(parameters: Parameters) -> int:
    """Cuts that a commitment stays open for before it is `inconclusive`."""
    return 2 + math.ceil(2 * (parameters.claim_s + parameters.verdict_s) / parameters.epoch_s)


def waits_for_cuts(run: Run, state: State) -> bool:
    """Whether a cut without news would change more than its number: an open batch becomes payable
    or runs out, credits vest, a version earns its price. Each of them ends after some cuts."""
    if state.lots or state.unpaid:
        return True
    finished = is_finished(run, state.weights("learner"), state.newest, state.versions)

    def vests_with_time(batch: Batch) -> bool:
        further = worker_of(run, state, batch.worker).next_counter - 1 - batch.counter
        return finished or further >= run.spec.parameters.vest_batches

    return any(
        batch.state == "committed" or (batch.state == "payable" and vests_with_time(batch))
        for batch in state.batches.values()
    )


def epochs_of(state: State) -> dict[int, Epoch]:
    """All cuts whose draw terms are known, the state's own included."""
    return {**state.epochs, state.number: Epoch(state.root, state.weights("verifier"))}


def terms_of(epoch: Epoch, worker: bytes, on_probation: bool) -> Terms:
    """Draw terms of a worker's batch: nobody judges their own work."""
    others = {peer: weight for peer, weight in epoch.verifiers.items() if peer != worker}
    return Terms(epoch.root, others, on_probation)


def worker_of(run: Run, state: State, peer: bytes) -> Worker:
    """What the state knows of a worker; a new one starts on probation, if the run has any."""
    freed = None if run.spec.parameters.probation_batches else 0
    return state.workers.get(peer) or Worker(freed_cut=freed)


def is_worker(run: Run, members: dict[str, dict[bytes, int]], peer: bytes) -> bool:
    """Whether the peer's commitments count; an open worker needs no admission."""
    return run.spec.admission.worker == "open" or peer in members.get("worker", {})


def is_finished(
    run: Run,
    learners: Iterable[bytes],
    newest: Mapping[bytes, bytes],
    versions: Mapping[bytes, Version],
) -> bool:
    """Whether every lineage has made the run's last step."""
    last = run.spec.training.max_steps
    tips = [newest.get(learner) for learner in learners]
    return bool(last) and all(tip is not None and versions[tip].step >= last for tip in tips)


def leaves_of(state: State) -> list[bytes]:
    """Merkle leaf hashes: the rest of the state, then the accounts in peer order."""
    rest = msgspec.structs.replace(state, accounts={}, root=b"")
    head = digest("ledger", msgspec.msgpack.encode(rest))
    accounts = [account_leaf(peer, account) for peer, account in state.accounts.items()]
    return [merkle.leaf_hash(head), *accounts]


def account_leaf(peer: bytes, account: Account) -> bytes:
    amounts = (account.final_micro, account.pending_micro, account.burned_micro)
    return merkle.leaf_hash(joined([peer, *map(u64, amounts)]))


def root_of(state: State) -> bytes:
    return state.run_id if state.number == 0 else merkle.root_of(leaves_of(state))


class AccountProof(Struct, frozen=True, array_like=True):
    """That a peer has this account in the state with a known root."""

    account: Account
    index: int
    count: int
    path: tuple[bytes, ...]


def account_proof(state: State, peer: bytes) -> AccountProof | None:
    """Merkle path of a peer's account; None before cut 1 and for a peer without an account."""
    if state.number == 0 or peer not in state.accounts:
        return None
    leaves, index = leaves_of(state), 1 + list(state.accounts).index(peer)
    path = tuple(merkle.path_of(leaves, index))
    return AccountProof(state.accounts[peer], index, len(leaves), path)


def is_account(root: bytes, peer: bytes, proof: AccountProof) -> bool:
    """Whether the proof shows `peer`'s balance under a cut's root."""
    leaf = account_leaf(peer, proof.account)
    return proof.index > 0 and merkle.is_in_tree(root, leaf, proof.index, proof.count, proof.path)


def encode_state(state: State) -> bytes:
    return msgspec.msgpack.encode(state)


def decode_state(data: bytes) -> State:
    """Raises ValueError if the bytes are not a state or do not have the root they state."""
    try:
        state = msgspec.msgpack.decode(data, type=State)
    except msgspec.DecodeError as error:
        raise ValueError(f"not a ledger state: {error}") from error
    if root_of(state) != state.root:
        raise ValueError("ledger state does not have its stated root")
    return state


def balances(state: State) -> dict[bytes, Account]:
    """Every peer's account as of this cut."""
    return dict(state.accounts)
