"""From a seed to what will go wrong: the cast of a run, their lines and clocks, and the faults.

Pure. Everything that a run varies is drawn here, so that `python -m tests.sim --seed N -v` can say
beforehand what the seed is about.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Literal

from primed.p2p.simnet import Access
from primed.verify.runspec import Role

from .cast import Member, Vice, identity_of

FAULTS_FROM_S, FAULTS_UNTIL_S = 6.0, 25.0
STEPS = 5
FaultKind = Literal["part", "freeze", "crash", "power"]
VICES: tuple[Vice, ...] = ("model", "copy", "equivocate", "replay", "garbage", "slander", "lie")


@dataclass(frozen=True)
class Fault:
    """Something that breaks at a time, for a while, at these members."""

    at_s: float
    kind: FaultKind
    lasts_s: float
    names: tuple[str, ...]


@dataclass
class Plan:
    seed: int
    cast: list[Member]
    faults: list[Fault]
    gossip_loss: float
    steps: int = STEPS
    names: dict[str, Member] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.names = {member.name: member for member in self.cast}

    def lines(self) -> list[str]:
        """For people."""
        told = [f"seed {self.seed}: {len(self.cast)} nodes, gossip loss {self.gossip_loss:.2f}"]
        for m in self.cast:
            oddities = [m.vice and f"vice: {m.vice}", "" if m.is_public else "behind NAT"]
            oddities += [f"clock {m.clock_skew_s:+.0f} s" if not m.is_in_time else ""]
            oddities += [f"joins at {m.joins_at_s:.0f} s" if m.joins_at_s > 5 else ""]
            said = ", ".join([m.role, *filter(None, oddities), "knows " + "+".join(m.bootstrap)])
            told.append(f"  {m.name}: {said}")
        for f in self.faults:
            told.append(f"  {f.at_s:.0f} s: {f.kind} for {f.lasts_s:.0f} s: {' '.join(f.names)}")
        return told


def plan_of(seed: int, nodes: int) -> Plan:
    """What happens in this seed. At least 10 nodes."""
    rng = random.Random(f"plan {seed}")
    cast = [
        Member(f"n{number:02}", identity_of(seed, number), role, _access(rng))
        for number, role in enumerate(_roles(rng, nodes))
    ]
    _give_vices(rng, cast)
    _give_oddities(rng, cast)
    _give_bootstrap(rng, cast)
    faults = sorted(_faults(rng, cast), key=lambda fault: fault.at_s)
    return Plan(seed, cast, faults, gossip_loss=rng.choice([0.0, 0.02, 0.1]))


def _roles(rng: random.Random, nodes: int) -> list[Role]:
    learners = 2 if nodes >= 16 and rng.random() < 0.25 else 1
    verifiers, relays = (4, 2) if nodes >= 16 else (3, 1)
    counts: list[tuple[Role, int]] = [("originator", 1), ("relay", relays)]
    counts += [("learner", learners), ("verifier", verifiers)]
    counts.append(("worker", nodes - sum(count for _, count in counts)))
    return [role for role, count in counts for _ in range(count)]


def _access(rng: random.Random) -> Access:
    return Access(
        latency_s=rng.uniform(0.005, 0.06),
        jitter_s=rng.uniform(0, 0.01),
        loss=rng.choice([0.0, 0.0, 0.001, 0.01]),
        bytes_per_s=rng.choice([250_000.0, 1_250_000.0, 12_500_000.0]),
        damage=rng.choice([0.0] * 9 + [0.0005]),
    )


def _give_vices(rng: random.Random, cast: list[Member]) -> None:
    """Up to a fifth of the nodes cheat; one verifier of four may slander, one relay may lie."""
    chosen = rng.sample(VICES, rng.randint(1, min(len(VICES), len(cast) // 5)))
    for vice in chosen:
        role: Role = {"slander": "verifier", "lie": "relay"}.get(vice, "worker")  # type: ignore[assignment]
        candidates = [m for m in cast if m.role == role and not m.vice]
        if role == "relay":
            candidates = candidates[1:]  # one relay stays honest
        if candidates:
            rng.choice(candidates).vice = vice


def _give_oddities(rng: random.Random, cast: list[Member]) -> None:
    workers = [m for m in cast if m.role == "worker"]
    for member in cast:
        member.clock_skew_s = rng.uniform(-50, 50)
        member.joins_at_s = rng.uniform(0, 3)
        member.child_death = rng.choice([0.0, 0.0, 0.0, 0.02])
    for member in rng.sample(workers, len(workers) // 4):
        member.is_public = False
    honest = [m for m in workers if not m.vice]
    late, skewed = rng.sample(honest, 2)
    if rng.random() < 0.7:
        late.joins_at_s = rng.uniform(12, 25)
    if rng.random() < 0.4:
        skewed.clock_skew_s = rng.choice([-600.0, 600.0])


def _give_bootstrap(rng: random.Random, cast: list[Member]) -> None:
    """Each knows one or two of the bootstrap peers; one of them knows all, so that it is possible
    for the swarm to become one (scenario 9)."""
    given = [m.name for m in cast if m.role in ("originator", "relay")]
    for member in cast:
        others = [name for name in given if name != member.name]
        member.bootstrap = rng.sample(others, min(len(others), rng.choice([1, 1, 2])))
    bridge = rng.choice([m for m in cast if m.name not in given and m.joins_at_s < 5])
    bridge.bootstrap = list(given)


def _faults(rng: random.Random, cast: list[Member]) -> list[Fault]:
    faults: list[Fault] = []
    names = [m.name for m in cast]
    honest = [m.name for m in cast if not m.vice]
    if rng.random() < 0.5:
        side = tuple(rng.sample(names, rng.randint(len(names) // 4, len(names) // 2)))
        faults.append(Fault(_when(rng), "part", rng.uniform(5, 35), side))
    for _ in range(rng.choice([0, 1, 1, 2])):
        faults.append(Fault(_when(rng), "freeze", rng.uniform(5, 40), (rng.choice(honest),)))
    for name in rng.sample(names, rng.choice([0, 1, 2, 3])):
        faults.append(Fault(_when(rng), "crash", rng.uniform(0.1, 12), (name,)))
    if rng.random() < 0.3:
        faults.append(Fault(_when(rng), "power", rng.uniform(5, 30), (rng.choice(honest),)))
    return faults


def _when(rng: random.Random) -> float:
    return rng.uniform(FAULTS_FROM_S, FAULTS_UNTIL_S)
