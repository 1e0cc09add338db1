"""Things that protocol tests need: an in-memory EventStore, example bodies and a RunSpec."""

from __future__ import annotations

from collections.abc import Sequence

from primed.protocols.events import Equivocation, SignedEvent, Stored
from primed.verify.runspec import (
    Admission,
    Band,
    EnvironmentSpec,
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
from primed.verify.statements import Head, Joined, Skipped

from .memory_network import Key

RUN = bytes(range(32))
NOW_MS = 1_800_000_000_000


class MemoryEvents:
    """An EventStore over a list; it insists on order like the real one."""

    def __init__(self) -> None:
        self.chains: dict[tuple[bytes, bytes], list[Stored]] = {}
        self.kept_proofs: dict[tuple[bytes, bytes], Equivocation] = {}

    def head(self, run: bytes, author: bytes) -> Head | None:
        chain = self.chains.get((run, author))
        return Head(author, len(chain) - 1, chain[-1].digest) if chain else None

    def heads(self, run: bytes) -> list[Head]:
        found = (self.head(run, author) for of, author in self.chains if of == run)
        return [head for head in found if head is not None]

    def append(self, run: bytes, events: Sequence[Stored]) -> None:
        for stored in events:
            chain = self.chains.setdefault((run, stored.event.author), [])
            assert stored.event.seq == len(chain)
            assert stored.event.prev == (chain[-1].digest if chain else run)
            chain.append(stored)

    def get(self, run: bytes, author: bytes, start: int, count: int) -> list[SignedEvent]:
        return [s.signed for s in self.chains.get((run, author), [])[start : start + count]]

    def add_proof(self, run: bytes, author: bytes, proof: Equivocation) -> None:
        self.kept_proofs[run, author] = proof

    def proofs(self, run: bytes) -> list[Equivocation]:
        return [proof for (of, _), proof in self.kept_proofs.items() if of == run]


def skipped(counter: int) -> Skipped:
    return Skipped(counter, "a test")


JOINED = Joined(("worker",), "bf16/torch/cpu")


def example_run(key: Key) -> Run:
    band = Band(accept=0.1, reject=0.2)
    thresholds = Thresholds(
        sampling_mismatch=band, sampling_margin=band, proof_distance=band, logprob_error=band
    )
    spec = RunSpec(
        name="test",
        originator=key.peer,
        created_unix_ms=NOW_MS,
        model=ModelSpec(architecture="llama", config={}, tokenizer="chars", weights=bytes(32)),
        environments=(EnvironmentSpec(name="sort", digest=bytes(32)),),
        sampling=Sampling(),
        proof=ProofSpec(thresholds=thresholds),
        training=Training(),
        parameters=Parameters(),
        admission=Admission(),
        prices=Prices(),
    )
    return sign_run(spec, key.sign)
