"""The verifier's child: checks 1 to 5 of a batch, then check 6 with the model, then the outcome."""

from __future__ import annotations

import time
from pathlib import Path

from primed.training import verification
from primed.training.children.room import Room, dishonest_only_in_workers, refused
from primed.training.messages import (
    Check,
    Checked,
    Configure,
    Inspect,
    Materialise,
    Ready,
    Reply,
    Request,
)
from primed.training.torch_engine import TorchEngine
from primed.verify import draw
from primed.verify.judgement import judge


class VerifierServer:
    def __init__(self, configure: Configure) -> None:
        dishonest_only_in_workers(configure)
        self._room = Room(configure)
        spec = self._room.context.spec
        self._engine = TorchEngine(spec.model, spec.proof, self._room.context.facts.eos)
        self._loaded = ""

    def ready(self, request_id: int) -> Ready:
        return Ready(request_id, "torch", "cpu", self._engine.profile)

    def serve(self, request: Request) -> Reply:
        match request:
            case Materialise():
                return self._room.materialise(request)
            case Inspect():
                return self._room.inspect(request)[0]
            case Check():
                return self._check(request)
            case _:
                return refused(request, "verifier")

    def _check(self, request: Check) -> Checked:
        began, stated = time.monotonic(), request.inspect
        inspected, batch = self._room.inspect(stated)
        prints = inspected.fingerprints
        if batch is None:
            seconds = time.monotonic() - began
            reason, detail = inspected.failed, inspected.detail
            return Checked(request.id, "reject", reason, detail, {}, prints, seconds)
        self._load(request.weights_path)
        spec = self._room.context.spec
        opened = draw.opened(request.draw, stated.root, stated.chunks, spec.proof.opened_chunks)
        measured, malformed = verification.measure(self._engine, self._room.context, batch, opened)
        outcome, reason = judge(measured, spec.proof.thresholds, malformed)
        detail = f"{malformed} malformed proofs" if malformed else ""
        seconds = time.monotonic() - began
        return Checked(request.id, outcome, reason, detail, measured, prints, seconds)

    def _load(self, weights_path: str) -> None:
        if self._loaded != weights_path:
            self._loaded = ""
            self._engine.load(Path(weights_path))
            self._loaded = weights_path


def configure(request: Configure) -> VerifierServer:
    """Raises BadConfig."""
    return VerifierServer(request)
