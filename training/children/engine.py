"""The worker's child: generates batches. Loads a policy version when a request names a new one."""

from __future__ import annotations

import time
from pathlib import Path

from primed.training import rollouts, weights
from primed.training.children.room import Room, refused
from primed.training.dishonest import DishonestEngine
from primed.training.messages import (
    Configure,
    Generate,
    Generated,
    Materialise,
    Ready,
    Reply,
    Request,
)
from primed.training.torch_engine import TorchEngine
from primed.verify.batch import commitment_root, encode_batch
from primed.verify.digests import content_digest
from primed.verify.runspec import MICRO


class EngineServer:
    def __init__(self, configure: Configure) -> None:
        self._room = Room(configure)
        spec, eos = self._room.context.spec, self._room.context.facts.eos
        self._engine = (
            DishonestEngine(spec, eos)
            if configure.dishonest
            else TorchEngine(spec.model, spec.proof, eos)
        )
        self._loaded: tuple[bytes, str] | None = None

    def ready(self, request_id: int) -> Ready:
        return Ready(request_id, "torch", "cpu", self._engine.profile)

    def serve(self, request: Request) -> Reply:
        match request:
            case Materialise():
                return self._room.materialise(request)
            case Generate():
                return self._generate(request)
            case _:
                return refused(request, "engine")

    def _generate(self, request: Generate) -> Generated:
        began = time.monotonic()
        wanted = (request.version, request.weights_path)
        if self._loaded != wanted:
            self._loaded = None
            self._engine.load(Path(request.weights_path))
            self._loaded = wanted
        self._engine.rows_max = request.rows_max
        batch = rollouts.generate(
            self._engine, self._room.context, self._room.peer, request.counter, request.version
        )
        data = encode_batch(batch)
        weights.write_atomically(Path(request.out_path), lambda file: file.write(data))
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
            seconds=time.monotonic() - began,
        )


def configure(request: Configure) -> EngineServer:
    """Raises BadConfig."""
    return EngineServer(request)
