"""Simulated children: the three kinds behind the real supervisor, without processes and torch.

A `SimLink` stands where the socket to a process does; what it answers is computed by the same code
as in a real child (`training.rollouts`, `training.verification`, `training.deltas`, `verify.checks`)
over the simulated policy of `model`. How long a request takes is drawn from the run's seed.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from primed.node.child_link import BrokenLink
from primed.training import context, deltas, rollouts, verification, weights
from primed.training.context import RunContext
from primed.training.errors import BadInput
from primed.training.messages import (
    HEARTBEAT_S,
    Check,
    Checked,
    Configure,
    Failed,
    Generate,
    Generated,
    Heartbeat,
    Inspect,
    Inspected,
    Materialise,
    Materialised,
    Merge,
    Merged,
    Ready,
    Reply,
    Request,
    Train,
    Trained,
)
from primed.verify import checks, draw
from primed.verify.batch import (
    Batch,
    MalformedBatch,
    commitment_root,
    decode_batch,
    encode_batch,
)
from primed.verify.digests import content_digest
from primed.verify.judgement import judge
from primed.verify.runspec import MICRO

from .model import SimEngine, write_step

SECONDS = {
    Generate: 4.0,
    Check: 0.5,
    Inspect: 0.05,
    Train: 2.0,
    Materialise: 0.1,
    Merge: 0.2,
    Configure: 0.5,
}


@dataclass(frozen=True)
class Conduct:
    """How a node's children differ from honest and healthy ones.

    death: chance of dying at a request. bias: see SimEngine. forge: what becomes of each batch that
    is made. opine: what becomes of each check's result.
    """

    death: float = 0.0
    bias: int = 0
    forge: Callable[[Batch], Batch] = lambda batch: batch
    opine: Callable[[Checked], Checked] = lambda checked: checked


class SimChild:
    """Serves all kinds of requests."""

    def __init__(self, configure: Configure, conduct: Conduct) -> None:
        self._context: RunContext = context.of_bytes(configure.spec, configure.run_id)
        self._peer = configure.peer
        self._engine = SimEngine(self._context.spec, conduct.bias)
        self._conduct = conduct

    def serve(self, request: Request) -> Reply:
        try:
            match request:
                case Materialise():
                    return _materialise(request)
                case Generate():
                    return self._generate(request)
                case Inspect():
                    return self._inspect(request)[0]
                case Check():
                    return self._conduct.opine(self._check(request))
                case Train():
                    return self._train(request)
                case Merge():
                    base, new = Path(request.base_path), Path(request.new_path)
                    return Merged(request.id, deltas.encode(base, new, Path(request.out_path)), 0.0)
                case _:
                    return Failed(request.id, "bug", "not served here")
        except BadInput as error:
            return Failed(request.id, "bad_input", str(error))
        except OSError as error:  # as in training.child
            return Failed(request.id, "bug", f"{type(error).__name__}: {error}")

    def _generate(self, request: Generate) -> Generated:
        self._engine.load(Path(request.weights_path))
        batch = rollouts.generate(
            self._engine, self._context, self._peer, request.counter, request.version
        )
        batch = self._conduct.forge(batch)
        data = encode_batch(batch)
        Path(request.out_path).write_bytes(data)
        return Generated(
            id=request.id,
            counter=request.counter,
            version=request.version,
            path=request.out_path,
            batch=content_digest(data),
            size_bytes=len(data),
            root=commitment_root(batch),
            rollouts=batch.total_rollouts,
            chunks=batch.total_chunks,
            tokens=batch.total_tokens,
            reward_mean=rollouts.reward_mean_micro(batch) / MICRO,
            seconds=0.0,
        )

    def _inspect(self, request: Inspect) -> tuple[Inspected, Batch | None]:
        try:
            batch = decode_batch(Path(request.batch_path).read_bytes())
        except MalformedBatch as error:
            return Inspected(request.id, "schema", str(error), [], 0.0), None
        run = self._context
        stated = checks.Stated(
            request.worker,
            request.counter,
            request.version,
            request.root,
            request.rollouts,
            request.chunks,
            request.tokens,
        )
        finding = checks.inspect_batch(
            batch, stated, run.run_id, run.spec, run.sizes, run.facts, run.score
        )
        prints = checks.fingerprints(batch, run.spec.parameters.duplicate_min_tokens)
        if finding is not None:
            return Inspected(request.id, finding.check, finding.detail, prints, 0.0), None
        return Inspected(request.id, "", "", prints, 0.0), batch

    def _check(self, request: Check) -> Checked:
        stated, spec = request.inspect, self._context.spec
        found, batch = self._inspect(stated)
        prints = found.fingerprints
        if batch is None:
            return Checked(request.id, "reject", found.failed, found.detail, {}, prints, 0.0)
        self._engine.load(Path(request.weights_path))
        opened = draw.opened(request.draw, stated.root, stated.chunks, spec.proof.opened_chunks)
        measured, malformed = verification.measure(self._engine, self._context, batch, opened)
        outcome, reason = judge(measured, spec.proof.thresholds, malformed)
        return Checked(request.id, outcome, reason, "", measured, prints, 0.0)

    def _train(self, request: Train) -> Trained:
        taken = [content_digest(Path(path).read_bytes()) for path in request.batch_paths]
        parent, out = Path(request.parent_path), Path(request.out_weights_path)
        digest = write_step(parent, out, request.step, taken)
        size_bytes = deltas.encode(parent, out, Path(request.out_delta_path))
        Path(request.out_state_path).write_bytes(digest)
        return Trained(request.id, request.step, "", digest, size_bytes, {}, "", 0.0)


def _materialise(request: Materialise) -> Materialised:
    out = Path(request.out_path)
    if request.snapshot_path is not None:
        tensors, _ = weights.read(Path(request.snapshot_path))
        if weights.digest_of(tensors) != request.weights:
            raise BadInput("the snapshot does not have the version's weights digest")
        weights.write(out, tensors)
    elif request.base_path is not None and request.delta_path is not None:
        deltas.apply(Path(request.base_path), Path(request.delta_path), out, request.weights)
    return Materialised(request.id, request.version, str(out), 0.0)


class SimLink:
    """A running child, as `node.child` sees it."""

    pid = 0

    def __init__(self, rng: random.Random, conduct: Conduct) -> None:
        self._rng = rng
        self._conduct = conduct
        self._child: SimChild | None = None
        self._put, self._take = trio.open_memory_channel[Request](16)

    async def send(self, message: Request) -> None:
        self._put.send_nowait(message)

    async def receive(self) -> Reply:
        request = None
        with trio.move_on_after(HEARTBEAT_S):
            request = await self._take.receive()
        if request is None:
            return Heartbeat(busy_with="", busy_s=0.0)
        return await self._answer(request)

    async def _answer(self, request: Request) -> Reply:
        await trio.sleep(SECONDS[type(request)] * self._rng.uniform(0.7, 1.5))
        if isinstance(request, Configure):
            self._child = SimChild(request, self._conduct)
            return Ready(request.id, "sim", "cpu", SimEngine.profile)
        if self._rng.random() < self._conduct.death:
            raise BrokenLink("the simulated child died")
        assert self._child is not None
        return self._child.serve(request)

    async def end(self, grace_s: float) -> int:
        await trio.lowlevel.checkpoint()
        return -9

    async def exited(self, within_s: float) -> int | None:
        await trio.lowlevel.checkpoint()
        return -9


def spawner(
    rng: random.Random, conduct: Conduct
) -> Callable[[Sequence[str], int, Path], Awaitable[SimLink]]:
    """For the supervisor: children that take their time from `rng`."""

    async def spawn(command: Sequence[str], threads: int, log_path: Path) -> SimLink:
        await trio.lowlevel.checkpoint()
        return SimLink(random.Random(rng.random()), conduct)

    return spawn
