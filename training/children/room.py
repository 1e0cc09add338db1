"""What every kind of child has: the run's context, threads, and the making of weights files.

`materialise` turns what arrived from peers (a snapshot, or a delta onto a version that is here)
into a version's weights file, or refuses it without leaving anything behind.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

from primed.training import context, deltas, models, weights
from primed.training.context import RunContext
from primed.training.errors import BadConfig, BadInput
from primed.training.messages import (
    Configure,
    Failed,
    Inspect,
    Inspected,
    Materialise,
    Materialised,
    Request,
)
from primed.training.rollouts import reward_mean_micro
from primed.verify import checks
from primed.verify.batch import BATCH_MAX_BYTES, Batch, MalformedBatch, decode_batch
from primed.verify.runspec import MICRO


class Room:
    """A configured child's surroundings."""

    def __init__(self, configure: Configure) -> None:
        torch.set_num_threads(configure.threads)
        self.context: RunContext = context.of_bytes(configure.spec, configure.run_id)
        self.peer = configure.peer
        self._shapes = models.shapes_of(models.build(self.context.spec.model))

    def materialise(self, request: Materialise) -> Materialised:
        """Raises BadWeights, BadDelta, BadInput; then out_path does not exist."""
        began, out = time.monotonic(), Path(request.out_path)
        if request.snapshot_path is not None:
            tensors = weights.load(Path(request.snapshot_path), self._shapes)
            if weights.digest_of(tensors) != request.weights:
                raise BadInput("the snapshot does not have the version's weights digest")
            weights.write(out, tensors)
        elif request.base_path is not None and request.delta_path is not None:
            base, delta = Path(request.base_path), Path(request.delta_path)
            deltas.apply(base, delta, out, request.weights)
            self._refuse_unfit(out)  # and with it a base that is: both have the same tensors
        else:
            raise BadInput("neither a snapshot nor a base and a delta is given")
        return Materialised(request.id, request.version, str(out), time.monotonic() - began)

    def _refuse_unfit(self, path: Path) -> None:
        """A delta can give what it promises and still promise NaN."""
        try:
            weights.load(path, self._shapes)
        except weights.BadWeights:
            path.unlink()
            raise

    def inspect(self, request: Inspect) -> tuple[Inspected, Batch | None]:
        """Checks 1 to 5; the batch if it passed."""
        try:
            batch = _read_batch(Path(request.batch_path))
        except MalformedBatch as error:
            return Inspected(request.id, "schema", str(error), [], 0.0), None
        run, spec = self.context, self.context.spec
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
            batch, stated, run.run_id, spec, run.sizes, run.facts, run.score
        )
        mean = reward_mean_micro(batch) / MICRO
        prints = checks.fingerprints(batch, spec.parameters.duplicate_min_tokens)
        if finding is not None:
            return Inspected(request.id, finding.check, finding.detail, prints, mean), None
        return Inspected(request.id, "", "", prints, mean), batch


def refused(request: Request, kind: str) -> Failed:
    """The reply to a request that this kind of child does not serve."""
    return Failed(request.id, "bug", f"{kind} children do not serve {type(request).__name__}")


def dishonest_only_in_workers(configure: Configure) -> None:
    """Raises BadConfig: only an engine can be told to cheat."""
    if configure.dishonest:
        raise BadConfig(f"a {configure.kind} child cannot be dishonest")


def _read_batch(path: Path) -> Batch:
    if path.stat().st_size > BATCH_MAX_BYTES:
        raise MalformedBatch(f"larger than {BATCH_MAX_BYTES} bytes")
    return decode_batch(path.read_bytes())
