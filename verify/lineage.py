"""Policy versions and the chains they form, from the manifests that were stated.

A version is named by the digest of its manifest. Version 0 is the originator's anchor with the base
checkpoint; a learner's lineage is the chain of its `step` and `mix` manifests from there. A mix takes
versions of other learners in (its further parents), changes many weights and consumes no batch. A
`merged` manifest makes no version: it names a delta from a version with a snapshot to a later one of
this learner; from version 0, which all lineages share, it is how nodes of other lineages change over.
Manifests arrive in any order across authors: one whose parent is unknown waits until the parent is
here. Only listed learners' wait, whose versions are kept for good anyway: a whole lineage may come
before the base checkpoint.
Pure: fed with verified entries, asked by the daemon's roles.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

from primed.verify.runspec import Run
from primed.verify.statements import (
    Committed,
    Entry,
    Manifest,
    Payload,
    makes_a_version,
    version_of,
)

_SLACK_BYTES = 1 << 20
_LEG_BYTES = 1 << 18  # what one more payload costs beside its bytes: asking, waiting, applying
SPANS_KEPT = (2, 4, 8, 16)  # merged deltas that stay useful when there are newer ones
MIXES_KEPT = 4  # large deltas, apart from the others
_MERGED_PER_VERSION = 2  # from the newest snapshot, and from what all lineages share


class Leg(NamedTuple):
    """A way to make a version's weights: its snapshot, or a delta onto the version `base`."""

    version: bytes
    base: bytes | None
    payload: Payload


class Lineages:
    def __init__(self, run: Run) -> None:
        self._run = run
        self._learners = run.peers("learner")
        self._newest: dict[bytes, bytes] = {}  # learner -> version
        self._orphans: dict[bytes, list[Entry]] = {}  # missing parent -> manifests
        self._merged: dict[bytes, list[Manifest]] = {}  # version -> merged deltas that lead to it
        self.manifests: dict[bytes, Manifest] = {}
        self.base: bytes | None = None  # version 0

    def observe(self, entry: Entry) -> list[bytes]:
        """Take a manifest in; returns the versions that became known, oldest first."""
        known: list[bytes] = []
        ahead = deque([entry])
        while ahead:
            if (version := self._take(ahead.popleft())) is not None:
                known.append(version)
                ahead.extendleft(reversed(self._orphans.pop(version, [])))
        return known

    def _take(self, entry: Entry) -> bytes | None:
        """The version that a manifest makes known, if any."""
        manifest = entry.body
        if not isinstance(manifest, Manifest):
            return None
        if manifest.step == 0:
            return self._take_base(entry.author, manifest)
        if entry.author != manifest.learner or manifest.learner not in self._learners:
            return None
        if manifest.kind == "merged":
            self._take_merged(entry, manifest)
            return None
        if not makes_a_version(manifest) or self._waits_for_a_parent(entry, manifest):
            return None
        if self.newest(manifest.learner) != manifest.parents[0] or not self._fits(manifest):
            return None  # a fork, a gap or an absurd size: the chain goes on without it
        return self._add(manifest)

    def _waits_for_a_parent(self, entry: Entry, manifest: Manifest) -> bool:
        missing = next((each for each in manifest.parents if each not in self.manifests), None)
        if missing is not None:
            self._orphans.setdefault(missing, []).append(entry)
        return missing is not None

    def _take_base(self, author: bytes, manifest: Manifest) -> bytes | None:
        spec = self._run.spec
        is_base = (
            author == spec.originator
            and manifest.kind == "anchor"
            and not manifest.parents
            and manifest.snapshot is not None
            and manifest.weights == spec.model.weights
        )
        if not is_base or self.base is not None:
            return None
        self.base = version_of(manifest)
        return self._add(manifest)

    def _take_merged(self, entry: Entry, manifest: Manifest) -> None:
        """parents: the version it starts from, which has a snapshot, and the one it leads to."""
        if len(manifest.parents) != 2 or manifest.delta is None or manifest.snapshot is not None:
            return
        if self._waits_for_a_parent(entry, manifest):
            return
        base, version = manifest.parents
        start, end = self.manifests[base], self.manifests[version]
        is_sound = (
            end.learner == manifest.learner
            and start.snapshot is not None
            and (base == self.base or start.learner == manifest.learner)
            and start.step < end.step == manifest.step
            and manifest.weights == end.weights
            and self._has_possible_sizes(manifest)
        )
        known = self._merged.setdefault(version, []) if is_sound else []
        is_new = all(each.parents[0] != base for each in known)
        if is_sound and is_new and len(known) < _MERGED_PER_VERSION:
            known.append(manifest)

    def _fits(self, manifest: Manifest) -> bool:
        """Whether step and payload sizes are possible, given the parent and the base checkpoint,
        and what is mixed in is others'."""
        follows = manifest.step == self.manifests[manifest.parents[0]].step + 1
        others = [self.manifests[each] for each in manifest.parents[1:]]
        is_mix = all(each.step and each.learner != manifest.learner for each in others)
        return follows and is_mix and self._has_possible_sizes(manifest)

    def _has_possible_sizes(self, manifest: Manifest) -> bool:
        assert self.base is not None
        base = self.manifests[self.base].snapshot
        assert base is not None
        limit = 2 * base.size_bytes + _SLACK_BYTES
        return all(part.size_bytes <= limit for part in manifest.payloads())

    def _add(self, manifest: Manifest) -> bytes:
        version = version_of(manifest)
        self.manifests[version] = manifest
        if manifest.step:
            self._newest[manifest.learner] = version
        return version

    def newest(self, learner: bytes) -> bytes | None:
        """The newest version of a learner's lineage: the base until it has published."""
        return self._newest.get(learner, self.base)

    def newest_step(self, learner: bytes) -> int:
        """Its step number; 0 before the learner published, and before there is a base."""
        newest = self.newest(learner)
        return 0 if newest is None else self.manifests[newest].step

    def chain(self, learner: bytes) -> Iterator[Manifest]:
        """The learner's versions from the newest back to the base."""
        at = self.newest(learner)
        while at is not None:
            manifest = self.manifests[at]
            yield manifest
            at = manifest.parents[0] if manifest.parents else None

    def step_of(self, version: bytes) -> int | None:
        manifest = self.manifests.get(version)
        return None if manifest is None else manifest.step

    def staleness(self, learner: bytes, version: bytes) -> int | None:
        """Steps from `version` to the learner's newest; None when either is unknown."""
        newest = self.newest(learner)
        if newest is None or version not in self.manifests:
            return None
        return self.manifests[newest].step - self.manifests[version].step

    def names_known_versions(self, committed: Committed) -> bool:
        """False while a manifest that the commitment names has not arrived."""
        return committed.version in self.manifests and committed.seen in self.manifests

    def version_fault(self, committed: Committed, seen_before: int) -> str:
        """ "" or why the named versions are wrong: `version` must be `seen` or its parent, both in
        the learner's lineage, and `seen` must not go back (`seen_before`: the step it had last)."""
        seen = self.manifests[committed.seen]
        for manifest in (seen, self.manifests[committed.version]):
            if manifest.step and manifest.learner != committed.learner:
                return "names a version of another lineage"
        if committed.version != committed.seen and committed.version not in seen.parents:
            return "version is neither the newest seen nor its parent"
        if seen.step < seen_before:
            return f"newest seen manifest went back from step {seen_before} to {seen.step}"
        return ""

    def newest_snapshot(self, learner: bytes) -> bytes | None:
        """The newest version of a lineage that can be had without any other."""
        for manifest in self.chain(learner):
            if manifest.snapshot is not None:
                return version_of(manifest)
        return None

    def merged(self, version: bytes) -> Sequence[Manifest]:
        """The merged deltas that lead to a version, as far as they were stated."""
        return self._merged.get(version, ())

    def unmerged(
        self, learner: bytes, without: Collection[bytes] = ()
    ) -> tuple[bytes, bytes] | None:
        """(start, newest version) of a merged delta that the learner should state: from its newest
        snapshot, and with several learners from the version that all lineages share. Not from the
        starts in `without`."""
        newest, snapshot = self.newest(learner), self.newest_snapshot(learner)
        if newest is None or snapshot is None or self.base is None:
            return None
        starts = [snapshot] if len(self._learners) == 1 else [snapshot, self.base]
        stated = {*without, *(merged.parents[0] for merged in self.merged(newest))}
        for start in starts:
            span = self.manifests[newest].step - self.manifests[start].step
            if span > 1 and start not in stated:
                return start, newest
        return None

    def retained(self, learner: bytes, leased: Collection[bytes], deltas: int) -> list[Manifest]:
        """Manifests whose payloads are kept and served, newest first: back to the second newest
        snapshot, over `deltas` steps or MIXES_KEPT mixes, and all leased versions, to the snapshot
        before them; and of the merged deltas the newest of each start, and from there also those
        of useful spans."""
        kept: dict[bytes, Manifest] = {}
        kinds: Counter[str] = Counter()
        leases, snapshots = set(leased) & self._lineage(learner), 0
        for manifest in self.chain(learner):
            version = version_of(manifest)
            kept[version] = manifest
            kinds[manifest.kind] += 1
            leases.discard(version)
            snapshots += manifest.snapshot is not None
            is_whole = manifest.snapshot is not None and not leases
            has_enough = kinds["step"] > deltas or kinds["mix"] > MIXES_KEPT
            if is_whole and snapshots >= 2 and has_enough:
                break
        return [*kept.values(), *self._useful(kept)]

    def _useful(self, kept: Collection[bytes]) -> Iterator[Manifest]:
        starts: set[bytes] = set()
        for each in (merged for version in kept for merged in self.merged(version)):
            start = each.parents[0]
            is_newest = start not in starts and (start in kept or start == self.base)
            if is_newest or (start in kept and self._span(each) in SPANS_KEPT):
                yield each
            starts.add(start)

    def _lineage(self, learner: bytes) -> set[bytes]:
        return {version for version, m in self.manifests.items() if m.learner == learner}

    def _span(self, merged: Manifest) -> int:
        return merged.step - self.manifests[merged.parents[0]].step

    def route(
        self, version: bytes, have: Callable[[bytes], bool], avoid: Collection[Payload] = ()
    ) -> list[Leg]:
        """The cheapest way to a version's weights, as legs to make in order, from versions that
        `have` says are here or from a snapshot, without the payloads to avoid. Empty when it is
        here, unknown, or cannot be had."""
        best: dict[bytes, tuple[float, Leg | None]] = {}
        for step in reversed(self._history(version, have)):
            if have(step):
                best[step] = (0.0, None)
                continue
            ways = [leg for leg in self._legs(step) if leg.payload not in avoid]
            priced = [(self._price(leg, best), leg) for leg in ways]
            best[step] = min(priced, key=lambda way: way[0], default=(math.inf, None))
        legs: list[Leg] = []
        at: bytes | None = version
        while at is not None and at in best and (leg := best[at][1]) is not None:
            if math.isinf(best[at][0]):
                return []
            legs.append(leg)
            at = leg.base
        return legs[::-1]

    def ways(self, version: bytes, have: Callable[[bytes], bool]) -> Iterator[Leg]:
        """All legs that `route` chooses from."""
        for step in self._history(version, have):
            yield from self._legs(step)

    def _history(self, version: bytes, have: Callable[[bytes], bool]) -> list[bytes]:
        """A version and those before it, back to the second snapshot, since older payloads are
        gone; then what is here of the versions that merged deltas start from."""
        history: list[bytes] = []
        at, snapshots = version, 0
        while at in self.manifests and snapshots < 2:
            history.append(at)
            manifest = self.manifests[at]
            snapshots += manifest.snapshot is not None
            if not manifest.parents:
                break
            at = manifest.parents[0]
        starts = {merged.parents[0] for each in history for merged in self.merged(each)}
        return history + sorted(filter(have, starts.difference(history)))

    def _legs(self, version: bytes) -> Iterator[Leg]:
        manifest = self.manifests[version]
        if manifest.snapshot is not None:
            yield Leg(version, None, manifest.snapshot)
        if manifest.delta is not None:
            yield Leg(version, manifest.parents[0], manifest.delta)
        for merged in self.merged(version):
            if merged.delta is not None:
                yield Leg(version, merged.parents[0], merged.delta)

    def _price(self, leg: Leg, best: dict[bytes, tuple[float, Leg | None]]) -> float:
        before = 0.0 if leg.base is None else best.get(leg.base, (math.inf, None))[0]
        return before + leg.payload.size_bytes + _LEG_BYTES


def payload_name(start: int | None, step: int) -> str:
    """What people call a step's snapshot (no start), or a delta from one step to another."""
    if start is None:
        return f"snapshot of step {step}"
    return f"delta of step {step}" if step - start == 1 else f"delta of steps {start} to {step}"
