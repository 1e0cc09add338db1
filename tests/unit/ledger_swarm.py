"""A run with real keys for tests of the ledger and of verdicts: every author signs its own chain."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from primed.verify import draw, vrf
from primed.verify.digests import digest
from primed.verify.ledger import State
from primed.verify.runspec import (
    Admission,
    Band,
    EnvironmentSpec,
    Listed,
    ModelSpec,
    Parameters,
    Prices,
    ProofSpec,
    Run,
    RunSpec,
    Sampling,
    Thresholds,
    Training,
    sign_run,
)
from primed.verify.signing import message_to_sign, peer_id_of
from primed.verify.statements import (
    Body,
    Claim,
    Committed,
    Entry,
    Manifest,
    Payload,
    Receipt,
    Verdict,
    stored_message,
    version_of,
)


class Key:
    def __init__(self, name: str) -> None:
        self.seed = digest("test-key", name.encode())
        self._private = Ed25519PrivateKey.from_private_bytes(self.seed)
        self.peer = peer_id_of(self._private.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        return self._private.sign(message)


@cache
def key(name: str) -> Key:
    return Key(name)


def run_of(
    verifiers: int = 2,
    prices: Prices | None = None,
    weights: Sequence[int] = (),
    admission: Literal["open", "listed"] = "open",
    steps: int = 0,
    **fields: object,
) -> Run:
    """A run of originator o, learner l, verifiers v0.. with equal or given weights; open workers."""
    band = Band(accept=0.1, reject=0.2)
    listed = [Listed(peer=key("l").peer, role="learner")]
    for i in range(verifiers):
        weight = weights[i] if weights else 1
        listed.append(Listed(peer=key(f"v{i}").peer, role="verifier", weight=weight))
    defaults = {
        "probation_batches": 2,
        "audit_rate": 0.25,
        "vest_batches": 2,
        "vest_epochs": 1,
        "epoch_s": 15.0,
        "claim_s": 1.0,
        "verdict_s": 10.0,
    }
    spec = RunSpec(
        name="test",
        originator=key("o").peer,
        created_unix_ms=0,
        model=ModelSpec(architecture="llama", config={}, tokenizer="digits", weights=bytes(32)),
        environments=(EnvironmentSpec(name="sort", digest=bytes(32)),),
        sampling=Sampling(),
        proof=ProofSpec(
            thresholds=Thresholds(
                sampling_mismatch=band,
                sampling_margin=band,
                proof_distance=band,
                logprob_error=band,
            )
        ),
        training=Training(max_steps=steps),
        parameters=Parameters(**{**defaults, **fields}),  # type: ignore[arg-type]
        admission=Admission(worker=admission, listed=tuple(listed)),
        prices=prices or Prices(budget=1_000_000, token=1, verdict=10, version=100),
    )
    return sign_run(spec, key("o").sign)


class Swarm:
    """Writes events; `entries` holds all of them in the order in which they were written."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.entries: list[Entry] = []
        self._next: dict[bytes, int] = {}
        self.cut, self.cut_root = 0, run.run_id
        self.versions: list[bytes] = [digest("version-zero")]

    def write(self, name: str, body: Body, branch: int = 0) -> Entry:
        author = key(name).peer
        seq = self._next.get(author, 0)
        self._next[author] = seq + 1
        named = digest("event", author, str((seq, branch)).encode(), repr(body).encode())
        entry = Entry(author, seq, named, body)
        self.entries.append(entry)
        return entry

    def names(self, state: State) -> None:
        """Commitments name this state's cut from now on."""
        self.cut, self.cut_root = state.number, state.root

    def commit(
        self, worker: str, counter: int, tokens: int = 100, holder: str = "l", version: int = -1
    ) -> Entry:
        peer = key(worker).peer
        batch = digest("batch-file", peer, str(counter).encode())
        message = stored_message(self.run.run_id, peer, counter, batch, batch)
        signature = key(holder).sign(message_to_sign("stored", message))
        return self.write(
            worker,
            Committed(
                learner=key("l").peer,
                counter=counter,
                version=self.versions[version],
                seen=self.versions[version],
                cut=self.cut,
                cut_root=self.cut_root,
                batch=batch,
                size_bytes=1000,
                root=batch,
                rollouts=4,
                chunks=4,
                tokens=tokens,
                receipts=(Receipt(key(holder).peer, signature),),
            ),
        )

    def claim(self, verifier: str, commitment: Entry) -> Entry:
        body = commitment.body
        assert isinstance(body, Committed)
        alpha = draw.alpha(self.run.run_id, commitment.author, body.counter, 0, body.cut_root)
        proof = vrf.prove(key(verifier).seed, alpha)
        return self.write(verifier, Claim(commitment.digest, 0, proof))

    def vote(self, verifier: str, commitment: Entry, reason: str = "ok") -> Entry:
        """A verdict: accept for "ok", inconclusive for "", else a reject with the reason."""
        outcome = "accept" if reason == "ok" else "reject" if reason else "inconclusive"
        return self.write(verifier, Verdict(commitment.digest, 0, outcome, reason, {}))  # type: ignore[arg-type]

    def check(self, commitment: Entry, *reasons: str) -> None:
        """v0, v1, .. claim and give these verdicts."""
        for i, reason in enumerate(reasons):
            self.claim(f"v{i}", commitment)
            self.vote(f"v{i}", commitment, reason)

    def publish(self, step: int, *consumed: Entry) -> Entry:
        manifest = Manifest(
            learner=key("l").peer,
            kind="step",
            step=step,
            parents=(self.versions[-1],),
            weights=digest("weights", str(step).encode()),
            delta=Payload(digest("delta", str(step).encode()), 1, 1024),
            snapshot=None,
            consumed=tuple(entry.digest for entry in consumed),
        )
        self.versions.append(version_of(manifest))
        return self.write("l", manifest)
