"""The weights files of a run's policy versions: which are here, and how to make one that is not.

A version's file is made by a child from a snapshot payload, or from an earlier version's file and a
delta payload, and verified there against the manifest's weights digest. `ensure` takes the cheapest
way from what is here, so the same code serves the first join (a snapshot and a merged delta), the
next step and a late return. A payload that does not come, or that a child refuses (it is what its
learner signed, and does not make what the manifest promises), is avoided by another way, if there is
one.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import structlog
import trio

from primed.node.child import Child
from primed.node.child_stops import ChildFailed
from primed.node.waits import Waits
from primed.p2p import peerid
from primed.p2p.errors import RemoteError
from primed.protocols.disk import on_disk
from primed.protocols.shardcast import Shardcast
from primed.training import weights
from primed.training.messages import Materialise, Materialised
from primed.training.weights import BadWeights
from primed.verify.lineage import Leg, Lineages, payload_name
from primed.verify.statements import Payload

PAYLOAD_S = 120.0  # a payload that made no progress for this long is given up (shardcast says why)
MATERIALISE_S = 300.0
REFUSED_KEPT = 64
_log = structlog.get_logger("primed.policies")


class PolicyUnavailable(Exception):
    """A version's weights cannot be had now; the message says what is missing."""


class _Useless(PolicyUnavailable):
    """A payload made no progress, or makes another version than its manifest promises."""

    def __init__(self, payload: Payload, message: str) -> None:
        super().__init__(message)
        self.payload = payload


class Policies:
    def __init__(
        self, lineages: Lineages, shardcast: Shardcast, folder: Path, waits: Waits
    ) -> None:
        self._lineages = lineages
        self._shardcast = shardcast
        self._folder = folder
        self._waits = waits
        self._turn = trio.Lock()  # one version is made at a time: they build on each other
        self._refused: OrderedDict[Payload, str] = OrderedDict()  # by a child, for good -> why
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
        ChildFailed when the child has no room or memory, or died."""
        async with self._turn:
            avoid = dict(self._refused)  # -> why
            while not self.has(version):
                legs = self._lineages.route(version, self.has, avoid)
                if not legs:
                    raise PolicyUnavailable(self._why_not(version, avoid))
                try:
                    for leg in legs:
                        await self._make(leg, child)
                except _Useless as error:
                    avoid[error.payload] = str(error)
        return self.path(version)

    def _why_not(self, version: bytes, avoided: dict[Payload, str]) -> str:
        manifest = self._lineages.manifests.get(version)
        if manifest is None:
            return f"no manifest of version {version.hex()[:8]} has arrived"
        ways = {leg.payload for leg in self._lineages.ways(version, self.has)}
        if reasons := [why for payload, why in avoided.items() if payload in ways]:
            return "; ".join(reasons)
        return f"step {manifest.step} has no snapshot and its parent is gone"

    async def _make(self, leg: Leg, child: Child) -> None:
        manifest = self._lineages.manifests[leg.version]
        file = str(await self._payload(leg))
        request = Materialise(
            id=0,
            version=leg.version,
            weights=manifest.weights,
            out_path=str(self.path(leg.version)),
            snapshot_path=file if leg.base is None else None,
            base_path=None if leg.base is None else str(self.path(leg.base)),
            delta_path=None if leg.base is None else file,
        )
        name = f"weights of step {manifest.step}"
        try:
            await child.ask(request, Materialised, timeout_s=MATERIALISE_S, name=name)
        except ChildFailed as error:
            if error.kind != "bad_input":
                raise
            if leg.base is not None and await self._drop_if_damaged(leg.base):
                raise _Useless(leg.payload, "the weights here were damaged: made anew") from error
            raise self._refuse(leg, error.message) from error
        self._here.add(leg.version.hex())

    async def _drop_if_damaged(self, version: bytes) -> bool:
        """Whether a file of ours is not what it was when it was made; then it is made again."""
        try:
            found = await on_disk(weights.digest_of_file, self.path(version))
        except (BadWeights, OSError):
            found = b""
        if found == self._lineages.manifests[version].weights:
            return False
        _log.error("weights file damaged", version=version.hex()[:8])
        self._here.discard(version.hex())
        await on_disk(self.path(version).unlink, missing_ok=True)
        return True

    def _refuse(self, leg: Leg, message: str) -> _Useless:
        """What arrived is what the learner signed: so it is the learner who is wrong."""
        learner = self._lineages.manifests[leg.version].learner
        why = f"the {self._name(leg)} by {peerid.short(learner)} is refused: {message}"
        self._refused[leg.payload] = why
        if len(self._refused) > REFUSED_KEPT:
            self._refused.popitem(last=False)
        _log.warning("payload refused", payload=self._name(leg), reason=message)
        return _Useless(leg.payload, why)

    async def _payload(self, leg: Leg) -> Path:
        """As long as something of it comes, however slowly."""
        payload, name, here = leg.payload, self._name(leg), -1
        self._shardcast.expect(payload, self._lineages.manifests[leg.version].learner)
        while (came := self._shardcast.progress(payload).leaves_here) > here:
            here = came
            with self._waits.named(name, lambda: self._shardcast.describe(payload), PAYLOAD_S):
                with trio.move_on_after(PAYLOAD_S):
                    try:
                        return await self._shardcast.wait(payload)
                    except RemoteError as error:
                        why = f"the {name} was refused: {error.reason}"
                        raise _Useless(payload, why) from error
        raise _Useless(payload, f"the {name} made no progress in {PAYLOAD_S:.0f} s")

    def _name(self, leg: Leg) -> str:
        start = None if leg.base is None else self._lineages.step_of(leg.base)
        return payload_name(start, self._lineages.manifests[leg.version].step)

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
