"""Several learners: changing from one lineage to another, and versions that mix."""

from __future__ import annotations

import msgspec

from primed.verify.lineage import MIXES_KEPT, Lineages
from primed.verify.runspec import Listed, sign_run
from primed.verify.statements import Entry, Manifest, Payload, version_of

from .ledger_swarm import key, run_of

MIB = 1 << 20
SNAPSHOT, STEP, MIX = 64 * MIB, MIB, 20 * MIB


class TwoLineages:
    """Learners l and m; snapshots at each fourth step."""

    def __init__(self) -> None:
        spec = run_of().spec
        second = Listed(peer=key("m").peer, role="learner")
        admission = msgspec.structs.replace(spec.admission, listed=(*spec.admission.listed, second))
        spec = msgspec.structs.replace(spec, admission=admission)
        self.seen = Lineages(sign_run(spec, key("o").sign))
        self._payloads = 0
        base = self._manifest(spec.originator, "anchor", 0, (), spec.model.weights, 0, SNAPSHOT)
        self.base = version_of(base)
        self.tell(base)
        self.chains = {name: [self.base] for name in "lm"}

    def _payload(self, size_bytes: int) -> Payload | None:
        self._payloads += 1
        root = self._payloads.to_bytes(32, "big")
        return Payload(root, size_bytes, 256 * 1024) if size_bytes else None

    def _manifest(
        self,
        learner: bytes,
        kind: str,
        step: int,
        parents: tuple[bytes, ...],
        weights: bytes,
        delta_bytes: int,
        snapshot_bytes: int = 0,
        consumed: tuple[bytes, ...] = (),
    ) -> Manifest:
        return Manifest(
            learner=learner,
            kind=kind,  # type: ignore[arg-type]
            step=step,
            parents=parents,
            weights=weights,
            delta=self._payload(delta_bytes),
            snapshot=self._payload(snapshot_bytes),
            consumed=consumed,
        )

    def tell(self, manifest: Manifest) -> list[bytes]:
        return self.seen.observe(Entry(manifest.learner, 0, bytes(32), manifest))

    def step(self, name: str, *mixed: bytes, consumed: tuple[bytes, ...] = ()) -> Manifest:
        """The lineage's next version: a mix if there is something to mix in."""
        chain = self.chains[name]
        number, (kind, size) = len(chain), ("mix", MIX) if mixed else ("step", STEP)
        snapshot = 0 if number % 4 or mixed else SNAPSHOT
        weights = name.encode() * 31 + bytes([number])
        return self._manifest(
            key(name).peer, kind, number, (chain[-1], *mixed), weights, size, snapshot, consumed
        )

    def go_on(self, name: str, *mixed: bytes) -> bytes:
        manifest = self.step(name, *mixed)
        version = version_of(manifest)
        assert self.tell(manifest) == [version]
        self.chains[name].append(version)
        return version

    def merge(self, name: str) -> list[int]:
        """State the merged deltas that are missing for its newest version; where they start."""
        starts = []
        while (wanted := self.seen.unmerged(key(name).peer)) is not None:
            start, newest = wanted
            end = self.seen.manifests[newest]
            size = 3 * STEP
            self.tell(self._manifest(end.learner, "merged", end.step, wanted, end.weights, size))
            starts.append(self.seen.manifests[start].step)
        return starts


def test_a_node_changes_lineage_by_one_merged_delta_from_what_both_share() -> None:
    """Silent learner: its worker follows the other one, whose snapshots it never had."""
    two = TwoLineages()
    for _ in range(11):
        two.go_on("l")
        two.go_on("m")
    newest = two.chains["m"][-1]
    assert two.merge("m") == [8, 0]  # its newest snapshot, and version 0
    here = {two.base, *two.chains["l"]}
    (leg,) = two.seen.route(newest, here.__contains__)
    assert (leg.base, leg.version) == (two.base, newest)
    assert leg.payload.size_bytes == 3 * STEP
    without = two.seen.route(newest, here.__contains__, [leg.payload])
    assert [each.base for each in without] == [None, two.chains["m"][8]]  # else as a newcomer
    kept = two.seen.retained(key("m").peer, set(), 4)
    assert leg.payload in [payload for manifest in kept for payload in manifest.payloads()]
    two.go_on("m")
    two.merge("m")
    assert two.seen.unmerged(key("m").peer) is None
    two.go_on("m")
    assert two.seen.unmerged(key("m").peer) == (two.base, two.chains["m"][-1])
    assert two.seen.unmerged(key("m").peer, without=[two.base]) is None  # 13 is one step from 12
    two.merge("m")
    kept = two.seen.retained(key("m").peer, set(), 4)
    starts = [manifest.parents[0] for manifest in kept if manifest.kind == "merged"]
    assert starts.count(two.base) == 1  # only the newest from there


def test_a_mix_goes_on_with_the_lineage_and_with_nothing_else() -> None:
    two = TwoLineages()
    two.go_on("l")
    other = two.go_on("m")
    own = two.chains["l"][-1]
    for bad in (
        two.step("l", own),  # its own version mixed in
        two.step("l", two.base),
        two.step("l", other, consumed=(bytes(32),)),
        msgspec.structs.replace(two.step("l", other), delta=None),
        msgspec.structs.replace(two.step("l", other), step=3),
        msgspec.structs.replace(two.step("l", other), parents=(two.base, other)),
    ):
        assert two.tell(bad) == []
    mixed = two.go_on("l", other)
    assert two.seen.newest(key("l").peer) == mixed
    assert two.seen.staleness(key("l").peer, own) == 1
    (leg,) = two.seen.route(mixed, {own}.__contains__)
    assert leg.payload.size_bytes == MIX
    two.go_on("l")


def test_a_mix_waits_for_the_versions_that_it_takes_in() -> None:
    early, late = TwoLineages(), TwoLineages()
    for two in (early, late):
        two.go_on("l")
    other = early.step("m")
    mix = early.step("l", version_of(other))
    assert late.tell(mix) == []
    assert late.tell(other) == [version_of(other), version_of(mix)]


def test_mixes_are_budgeted_apart_from_the_deltas_that_are_kept() -> None:
    """A few large ones do not push the small deltas out, nor are many of them kept."""
    two = TwoLineages()
    for number in range(40):
        other = two.go_on("m")
        two.go_on("l", *([] if number % 2 else [other]))
    kinds = [m.kind for m in two.seen.retained(key("l").peer, set(), 16)]
    mixes = kinds.count("mix")
    assert MIXES_KEPT < mixes <= MIXES_KEPT + 4  # and back to the snapshot before them
    assert two.seen.retained(key("m").peer, set(), 16)[16].kind == "step"
