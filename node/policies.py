"""The weights files of a run's policy versions: which are here, and how to make one that is not.

A version's file is made by a child from a snapshot payload, or from its parent's file and a delta
payload, and verified there against the manifest's weights digest. `ensure` takes the shortest way
from what is here, so the same code serves the first join, the next step and a late return.
"""

from __future__ import annotations

from pathlib import Path

import trio

from primed.node.child import Child
from primed.node.waits import Waits
from primed.p2p.errors import RemoteError
from primed.protocols.disk import on_disk
from primed.protocols.shardcast import Shardcast
from primed.training.messages import Materialise, Materialised
from primed.verify.lineage import Lineages
from primed.verify.statements import Manifest, Payload

PAYLOAD_S = 600.0  # a payload that made no progress for this long is given up (shardcast says why)
MATERIALISE_S = 300.0


class PolicyUnavailable(Exception):
    """A version's weights cannot be had now; the message says what is missing."""


class Policies:
    def __init__(
        self, lineages: Lineages, shardcast: Shardcast, folder: Path, waits: Waits
    ) -> None:
        self._lineages = lineages
        self._shardcast = shardcast
        self._folder = folder
        self._waits = waits
        self._turn = trio.Lock()  # one version is made at a time: they build on each other
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._here = {path.stem for path in folder.glob("*.safetensors")}

    def has(self, version: bytes) -> bool:
        return version.hex() in self._here

    def path(self, version: bytes) -> Path:
        return self._folder / f"{version.hex()}.safetensors"

    async def take(self, version: bytes, made: Path) -> None:
        """Take over a complete, verified file: the learner's own newest weights."""
        await on_disk(made.replace, self.path(version))
        self._here.add(version.hex())

    async def ensure(self, version: bytes, child: Child) -> Path:
        """The weights file of a version, made if it is not here. Raises PolicyUnavailable, and
        ChildFailed when the child cannot make it."""
        async with self._turn:
            for step in self._lineages.route(version, self.has):
                await self._make(step, child)
        if not self.has(version):
            raise PolicyUnavailable(f"no manifest of version {version.hex()[:8]} has arrived")
        return self.path(version)

    async def _make(self, version: bytes, child: Child) -> None:
        manifest = self._lineages.manifests[version]
        parent = manifest.parents[0] if manifest.parents else None
        snapshot = base = delta = None
        if parent is not None and self.has(parent) and manifest.delta is not None:
            base = str(self.path(parent))
            delta = str(await self._payload(manifest, manifest.delta, "delta"))
        elif manifest.snapshot is not None:
            snapshot = str(await self._payload(manifest, manifest.snapshot, "snapshot"))
        else:
            raise PolicyUnavailable(f"step {manifest.step} has no snapshot and its parent is gone")
        request = Materialise(
            id=0,
            version=version,
            weights=manifest.weights,
            out_path=str(self.path(version)),
            snapshot_path=snapshot,
            base_path=base,
            delta_path=delta,
        )
        name = f"weights of step {manifest.step}"
        await child.ask(request, Materialised, timeout_s=MATERIALISE_S, name=name)
        self._here.add(version.hex())

    async def _payload(self, manifest: Manifest, payload: Payload, what: str) -> Path:
        self._shardcast.expect(payload, manifest.learner)
        name = f"{what} of step {manifest.step}"
        with self._waits.named(name, lambda: self._shardcast.describe(payload), PAYLOAD_S):
            with trio.move_on_after(PAYLOAD_S):
                try:
                    return await self._shardcast.wait(payload)
                except RemoteError as error:
                    raise PolicyUnavailable(f"the {name} cannot be had: {error.reason}") from error
        raise PolicyUnavailable(f"the {name} did not arrive in {PAYLOAD_S:.0f} s")

    async def prune(self, keep: set[bytes]) -> None:
        """Delete the files of versions that nobody needs any more. Not while one is being made
        from another: then at the next call."""
        if self._turn.locked():
            return
        async with self._turn:
            gone = self._here - {version.hex() for version in keep}
            self._here -= gone
            for stem in gone:
                path = self._folder / f"{stem}.safetensors"
                await on_disk(path.unlink, missing_ok=True)
