"""Policy versions and the chains they form, from the manifests that were stated.

A version is named by the digest of its manifest. Version 0 is the originator's anchor with the base
checkpoint; a learner's lineage is the chain of its step manifests from there. Manifests arrive in
any order across authors: one whose parent is unknown waits (bounded) until the parent is here.
Pure: fed with verified entries, asked by the daemon's roles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from primed.verify.runspec import Run
from primed.verify.statements import Committed, Entry, Manifest, version_of

_ORPHANS = 1024  # manifests waiting for their parent
_SLACK_BYTES = 1 << 20


class Lineages:
    def __init__(self, run: Run) -> None:
        self._run = run
        self._learners = run.peers("learner")
        self._newest: dict[bytes, bytes] = {}  # learner -> version
        self._orphans: dict[bytes, list[Entry]] = {}  # missing parent -> manifests
        self.manifests: dict[bytes, Manifest] = {}
        self.base: bytes | None = None  # version 0

    def observe(self, entry: Entry) -> list[bytes]:
        """Take a manifest in; returns the versions that became known, oldest first."""
        manifest = entry.body
        if not isinstance(manifest, Manifest):
            return []
        if manifest.step == 0:
            return self._take_base(entry.author, manifest)
        if entry.author != manifest.learner or manifest.learner not in self._learners:
            return []
        if manifest.kind != "step" or len(manifest.parents) != 1 or manifest.delta is None:
            return []
        parent = manifest.parents[0]
        if parent not in self.manifests:
            if sum(map(len, self._orphans.values())) < _ORPHANS:
                self._orphans.setdefault(parent, []).append(entry)
            return []
        if self.newest(manifest.learner) != parent or not self._fits(manifest):
            return []  # a fork, a gap or an absurd size: the chain goes on without it
        return self._add(manifest)

    def _take_base(self, author: bytes, manifest: Manifest) -> list[bytes]:
        spec = self._run.spec
        is_base = (
            author == spec.originator
            and manifest.kind == "anchor"
            and not manifest.parents
            and manifest.snapshot is not None
            and manifest.weights == spec.model.weights
        )
        if not is_base or self.base is not None:
            return []
        self.base = version_of(manifest)
        return self._add(manifest)

    def _fits(self, manifest: Manifest) -> bool:
        """Whether step and payload sizes are possible, given the parent and the base checkpoint."""
        assert self.base is not None
        base = self.manifests[self.base].snapshot
        assert base is not None
        limit = 2 * base.size_bytes + _SLACK_BYTES
        payloads = [part for part in (manifest.delta, manifest.snapshot) if part is not None]
        follows = manifest.step == self.manifests[manifest.parents[0]].step + 1
        return follows and all(part.size_bytes <= limit for part in payloads)

    def _add(self, manifest: Manifest) -> list[bytes]:
        version = version_of(manifest)
        self.manifests[version] = manifest
        if manifest.step:
            self._newest[manifest.learner] = version
        known = [version]
        for orphan in self._orphans.pop(version, []):
            known += self.observe(orphan)
        return known

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

    def route(self, version: bytes, have: Callable[[bytes], bool]) -> list[bytes]:
        """Versions to make, in order, to have `version`'s weights: the first is a snapshot or
        follows a version that `have` says is here. Empty when it is here or unknown."""
        chain: list[bytes] = []
        at = version
        while at in self.manifests and not have(at):
            chain.append(at)
            manifest = self.manifests[at]
            if manifest.snapshot is not None or not manifest.parents:
                break
            at = manifest.parents[0]
        return chain[::-1]
