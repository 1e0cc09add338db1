"""The learner's child: checks 1 to 5 of the batches it is offered, and optimiser steps."""

from __future__ import annotations

import time
from pathlib import Path

from primed.training import deltas
from primed.training.children.room import Room, dishonest_only_in_workers, refused
from primed.training.learner import Learner, StepFiles, StepRefused
from primed.training.lessons import UnusableBatch
from primed.training.messages import (
    Configure,
    Inspect,
    Materialise,
    Merge,
    Merged,
    Ready,
    Reply,
    Request,
    Train,
    Trained,
)
from primed.training.torch_engine import TorchEngine


class LearnerServer:
    def __init__(self, configure: Configure) -> None:
        dishonest_only_in_workers(configure)
        self._room = Room(configure)
        self._learner = Learner(self._room.context.spec, self._room.context.environments)

    def ready(self, request_id: int) -> Ready:
        return Ready(request_id, "torch", "cpu", TorchEngine.profile)

    def serve(self, request: Request) -> Reply:
        match request:
            case Materialise():
                return self._room.materialise(request)
            case Inspect():
                return self._room.inspect(request)[0]
            case Train():
                return self._train(request)
            case Merge():
                return _merge(request)
            case _:
                return refused(request, "learner")

    def _train(self, request: Train) -> Trained:
        began = time.monotonic()
        files = StepFiles(
            parent=Path(request.parent_path),
            reference=Path(request.reference_path),
            state=Path(request.state_path) if request.state_path is not None else None,
            batches=[Path(path) for path in request.batch_paths],
            out_state=Path(request.out_state_path),
            out_weights=Path(request.out_weights_path),
            out_delta=Path(request.out_delta_path),
            forward_tokens=request.forward_tokens,
        )
        try:
            made = self._learner.step(request.step, files)
        except (StepRefused, UnusableBatch) as error:
            why, seconds = str(error), time.monotonic() - began
            return Trained(request.id, request.step, why, b"", 0, {}, "", seconds)
        return Trained(
            id=request.id,
            step=request.step,
            refused="",
            weights=made.weights,
            delta_bytes=made.delta_bytes,
            metrics=made.metrics,
            alarm=made.alarm,
            seconds=time.monotonic() - began,
        )


def _merge(request: Merge) -> Merged:
    began = time.monotonic()
    base, new, out = map(Path, (request.base_path, request.new_path, request.out_path))
    return Merged(request.id, deltas.encode(base, new, out), time.monotonic() - began)


def configure(request: Configure) -> LearnerServer:
    """Raises BadConfig."""
    return LearnerServer(request)
