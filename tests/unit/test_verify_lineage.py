"""Versions, ways to their weights, and what is kept of them."""

from __future__ import annotations

import msgspec

from primed.verify.lineage import Leg, Lineages
from primed.verify.runspec import Run
from primed.verify.statements import Entry, Manifest, Payload, version_of

from .ledger_swarm import key, run_of

MIB = 1 << 20
SNAPSHOT, STEP = 64 * MIB, MIB


def payload(size_bytes: int, name: int) -> Payload:
    return Payload(name.to_bytes(32, "big"), size_bytes, 256 * 1024)


class Lineage:
    """One learner's manifests, made and observed step by step; snapshots at each 16th step."""

    def __init__(self, *, base_bytes: int = SNAPSHOT) -> None:
        self.run: Run = run_of()
        (self.learner, *_) = self.run.peers("learner")
        self.seen = Lineages(self.run)
        base = Manifest(
            learner=self.run.spec.originator,
            kind="anchor",
            step=0,
            parents=(),
            weights=self.run.spec.model.weights,
            delta=None,
            snapshot=payload(base_bytes, 1000),
            consumed=(),
        )
        self.versions = [version_of(base)]
        self.tell(base, author=self.run.spec.originator)

    def tell(self, manifest: Manifest, author: bytes | None = None) -> list[bytes]:
        return self.seen.observe(Entry(author or manifest.learner, 0, bytes(32), manifest))

    def step(self) -> bytes:
        number = len(self.versions)
        manifest = Manifest(
            learner=self.learner,
            kind="step",
            step=number,
            parents=(self.versions[-1],),
            weights=number.to_bytes(32, "big"),
            delta=payload(STEP, number),
            snapshot=None if number % 16 else payload(SNAPSHOT, 1000 + number),
            consumed=(),
        )
        assert self.tell(manifest) == [version_of(manifest)]
        self.versions.append(version_of(manifest))
        return self.versions[-1]

    def merge(
        self, start: int, end: int, size_bytes: int = 3 * STEP, **changes: object
    ) -> Manifest:
        fields: dict[str, object] = {
            "learner": self.learner,
            "kind": "merged",
            "step": end,
            "parents": (self.versions[start], self.versions[end]),
            "weights": self.seen.manifests[self.versions[end]].weights,
            "delta": payload(size_bytes, 10_000 + end),
            "snapshot": None,
            "consumed": (),
        }
        manifest = Manifest(**{**fields, **changes})  # type: ignore[arg-type]
        assert self.tell(manifest) == []
        return manifest


def legs(way: list[Leg], lineage: Lineage) -> list[tuple[int | None, int]]:
    """(from step, to step), from None for a snapshot."""
    steps = {version: step for step, version in enumerate(lineage.versions)}
    return [(None if leg.base is None else steps[leg.base], steps[leg.version]) for leg in way]


def test_a_new_node_needs_one_snapshot_and_one_merged_delta() -> None:
    lineage = Lineage()
    for _ in range(11):
        lineage.step()
    newest = lineage.versions[11]
    assert legs(lineage.seen.route(newest, lambda _: False), lineage) == [
        (None, 0),
        *((step, step + 1) for step in range(11)),
    ]
    lineage.merge(0, 11)
    assert legs(lineage.seen.route(newest, lambda _: False), lineage) == [(None, 0), (0, 11)]


def test_a_late_node_takes_the_way_with_the_fewest_bytes() -> None:
    lineage = Lineage()
    for _ in range(20):
        lineage.step()
    lineage.merge(16, 20)
    newest = lineage.versions[20]

    def way(*here: int, avoid: tuple[Payload, ...] = ()) -> list[tuple[int | None, int]]:
        versions = {lineage.versions[step] for step in here}
        return legs(lineage.seen.route(newest, versions.__contains__, avoid), lineage)

    assert way(20) == []
    assert way(19) == [(19, 20)]
    assert way(18) == [(18, 19), (19, 20)]
    assert way(16) == [(16, 20)]  # 3 MiB instead of four times 1 MiB
    assert way(15) == [(15, 16), (16, 20)]
    assert way() == [(None, 16), (16, 20)]
    snapshot = lineage.seen.manifests[lineage.versions[16]].snapshot
    (merged,) = lineage.seen.merged(newest)
    assert snapshot is not None and merged.delta is not None
    assert way(avoid=(snapshot,))[0] == (None, 0)  # the older one, and deltas from there
    assert way(16, avoid=(merged.delta,)) == [(16, 17), (17, 18), (18, 19), (19, 20)]
    last = lineage.seen.manifests[newest].delta
    assert last is not None
    assert way(19, avoid=(last, merged.delta)) == []  # nothing leads there


def test_a_merged_delta_must_fit_the_versions_that_it_names() -> None:
    lineage = Lineage()
    for _ in range(5):
        lineage.step()
    v = lineage.versions
    lineage.merge(0, 3, weights=bytes(32))
    lineage.merge(0, 3, size_bytes=1000 * SNAPSHOT)
    lineage.merge(0, 3, step=4)
    lineage.merge(0, 3, parents=(v[0],))
    lineage.merge(0, 3, parents=(v[1], v[3]))  # starts from a version without a snapshot
    lineage.merge(0, 3, parents=(v[3], v[0]), step=0, weights=lineage.run.spec.model.weights)
    lineage.merge(0, 3, snapshot=payload(SNAPSHOT, 1))
    lineage.merge(0, 3, learner=key("nobody").peer)
    assert not lineage.seen.merged(v[3])
    first = lineage.merge(0, 3)
    lineage.merge(0, 3, size_bytes=2 * STEP)
    assert lineage.seen.merged(v[3]) == [first]
    assert lineage.seen.newest(lineage.learner) == v[5]


def test_a_version_with_an_absurd_payload_is_ignored() -> None:
    lineage = Lineage()
    good = lineage.seen.manifests[lineage.step()]
    huge, after = payload(3 * SNAPSHOT, 7), lineage.versions[-1]
    for change in (
        {"delta": huge},
        {"snapshot": huge},
        {"delta": None},
        {"step": 3},
        {"kind": "anchor"},
    ):
        manifest = msgspec.structs.replace(good, **{"step": 2, "parents": (after,), **change})
        assert lineage.tell(manifest) == []
    assert lineage.seen.newest(lineage.learner) == after


def test_a_merged_delta_may_come_before_the_version_it_leads_to() -> None:
    early, lineage = Lineage(), Lineage()
    for _ in range(3):
        early.step()
        lineage.step()
    early.step()
    merged = early.merge(0, 4)
    lineage.tell(merged)
    assert not lineage.seen.merged(early.versions[4])
    lineage.step()
    assert lineage.seen.merged(early.versions[4]) == [merged]


def test_kept_are_two_snapshots_sixteen_deltas_leases_and_useful_spans() -> None:
    lineage = Lineage()
    for end in range(1, 54):
        lineage.step()
        start = (end - 1) // 16 * 16
        if end - start > 1:
            lineage.merge(start, end)

    def kept(leased: set[bytes], deltas: int = 16) -> tuple[list[int], list[tuple[int, int]]]:
        found = lineage.seen.retained(lineage.learner, leased, deltas)
        steps = [m.step for m in found if m.kind == "step"]
        assert steps == sorted(steps, reverse=True)
        starts = {version: step for step, version in enumerate(lineage.versions)}
        spans = [(starts[m.parents[0]], m.step) for m in found if m.kind == "merged"]
        return steps, spans

    steps, spans = kept(set())
    assert steps == list(range(53, 31, -1))
    assert spans == [(48, 53), (48, 52), (48, 50), (32, 48), (32, 40), (32, 36), (32, 34)]
    assert kept(set(), 30)[0][-1] == 16
    assert kept({lineage.versions[20]})[0][-1] == 16
    assert kept({lineage.versions[16]})[0][-1] == 16
    assert kept({bytes(32)})[0][-1] == 32


def test_a_lineage_of_thousands_of_steps_may_come_before_the_base_and_in_any_order() -> None:
    """A replay goes from author to author, and the learner's events may come first."""
    lineage = Lineage()
    for _ in range(3000):
        lineage.step()
    lineage.merge(2992, 2999)
    manifests = [*lineage.seen.manifests.values(), *lineage.seen.merged(lineage.versions[2999])]
    entries = [
        Entry(m.learner if m.step else lineage.run.spec.originator, 0, bytes(32), m)
        for m in reversed(manifests)
    ]
    late = Lineages(lineage.run)
    for entry in entries[:-1]:
        assert late.observe(entry) == []
    assert late.observe(entries[-1]) == lineage.versions
    assert late.newest_step(lineage.learner) == 3000
    assert late.merged(lineage.versions[2999]) == lineage.seen.merged(lineage.versions[2999])
