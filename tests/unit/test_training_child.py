"""A real child process over a socket pair: every request, its typed failures, and its end."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from primed.training import messages as m
from primed.training import weights
from primed.training.context import RunContext
from primed.training.learner import Learner, StepFiles
from primed.verify.digests import digest, file_digest
from tests.unit.training_runs import WORKER, run_context, run_spec, write_weights

R = TypeVar("R", bound=msgspec.Struct)
VERSION = digest("version", b"of this test")
DRAW = bytes(range(64))


class Daemon:
    """The daemon's side of the pipe, blocking."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(60)
        command = [sys.executable, "-m", "primed.training.child", "--fd", str(theirs.fileno())]
        self.process = subprocess.Popen(command, pass_fds=(theirs.fileno(),))
        theirs.close()
        self._input = self._socket.makefile("rb")
        self.beats: list[m.Heartbeat] = []

    def ask(self, request: m.Request, expect: type[R]) -> R:
        body = msgspec.msgpack.encode(request)
        self._socket.sendall(len(body).to_bytes(4, "big") + body)
        while True:
            length = int.from_bytes(self._input.read(4), "big")
            reply = msgspec.msgpack.decode(self._input.read(length), type=m.Reply)
            if not isinstance(reply, m.Heartbeat):
                break
            self.beats.append(reply)
        assert isinstance(reply, expect), reply
        return reply

    def close(self) -> int:
        """The socket closes, as when the daemon dies; the child's exit status."""
        self._input.close()
        self._socket.close()
        return self.process.wait(timeout=20)


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    made = Daemon()
    yield made
    made.close()


def configure(run: RunContext, kind: m.ChildKind, *, dishonest: bool = False) -> m.Configure:
    return m.Configure(
        id=1,
        kind=kind,
        spec=msgspec.msgpack.encode(run.spec),
        run_id=run.run_id,
        peer=WORKER,
        dishonest=dishonest,
    )


def inspect_of(made: m.Generated) -> m.Inspect:
    return m.Inspect(
        id=20,
        batch_path=made.path,
        worker=WORKER,
        counter=made.counter,
        version=made.version,
        root=made.root,
        rollouts=made.rollouts,
        chunks=made.chunks,
        tokens=made.tokens,
    )


def test_one_child_as_engine_verifier_and_learner(daemon: Daemon, tmp_path: Path) -> None:
    run = run_context(run_spec(groups=4, group_size=8))
    base = write_weights(tmp_path / "base", run.spec)
    honest, lie = _generated(daemon, run, base)
    _checked(daemon, run, base, honest, lie)
    _trained(daemon, run, base, honest)
    assert daemon.beats, "a heartbeat a second"
    assert daemon.close() == 0


def _generated(daemon: Daemon, run: RunContext, base: Path) -> tuple[m.Generated, m.Generated]:
    early = m.Generate(id=9, counter=0, version=VERSION, weights_path=str(base), out_path="")
    made = []
    for name, dishonest in (("honest", False), ("lie", True)):
        ready = daemon.ask(configure(run, "engine", dishonest=dishonest), m.Ready)
        assert (ready.id, ready.backend, ready.profile) == (1, "torch", "fp32/torch/cpu")
        out = base.with_name(name)
        request = msgspec.structs.replace(early, id=10, counter=3, out_path=str(out))
        made.append(daemon.ask(request, m.Generated))
        assert made[-1].batch == file_digest(out)
        assert made[-1].size_bytes == out.stat().st_size
        assert (made[-1].id, made[-1].rollouts) == (10, 32)
    failed = daemon.ask(msgspec.structs.replace(early, weights_path=made[0].path), m.Failed)
    assert (failed.id, failed.kind, failed.fatal) == (9, "bad_input", False)
    return made[0], made[1]


def _checked(
    daemon: Daemon, run: RunContext, base: Path, honest: m.Generated, lie: m.Generated
) -> None:
    daemon.ask(configure(run, "verifier"), m.Ready)
    for made, outcome in ((honest, "accept"), (lie, "reject")):
        check = m.Check(id=4, inspect=inspect_of(made), weights_path=str(base), draw=DRAW)
        checked = daemon.ask(check, m.Checked)
        assert checked.outcome == outcome, checked
        assert checked.reason in ({"ok"} if outcome == "accept" else {"sampling", "proof"})
        assert set(checked.measurements) >= {"sampling_mismatch", "proof_distance"}
    other = msgspec.structs.replace(inspect_of(honest), counter=4)
    check = m.Check(id=4, inspect=other, weights_path=str(base), draw=DRAW)
    assert daemon.ask(check, m.Checked).reason == "commitment"
    Path(honest.path).with_name("rubbish").write_bytes(b"\x96\xa1\xff")
    rubbish = msgspec.structs.replace(other, batch_path=honest.path.replace("honest", "rubbish"))
    assert daemon.ask(rubbish, m.Inspected).failed == "schema"


def _trained(daemon: Daemon, run: RunContext, base: Path, honest: m.Generated) -> None:
    daemon.ask(configure(run, "learner"), m.Ready)
    assert daemon.ask(inspect_of(honest), m.Inspected).failed == ""
    ours, theirs = (
        StepFiles(
            parent=base,
            reference=base,
            state=None,
            batches=[Path(honest.path)],
            out_state=base.with_name(f"{name}.state"),
            out_weights=base.with_name(f"{name}.weights"),
            out_delta=base.with_name(f"{name}.delta"),
        )
        for name in ("ours", "theirs")
    )
    request = m.Train(
        id=5,
        step=1,
        parent_path=str(theirs.parent),
        reference_path=str(theirs.reference),
        state_path=None,
        batch_paths=[honest.path],
        out_state_path=str(theirs.out_state),
        out_weights_path=str(theirs.out_weights),
        out_delta_path=str(theirs.out_delta),
    )
    trained = daemon.ask(request, m.Trained)
    made = Learner(run.spec, run.environments).step(1, ours)
    assert (trained.refused, trained.weights) == ("", made.weights), "bit for bit, here and there"
    assert ours.out_state.read_bytes() == theirs.out_state.read_bytes()
    lost = msgspec.structs.replace(request, batch_paths=[str(base)])
    assert daemon.ask(lost, m.Trained).refused.startswith("batch base:")
    _materialised(daemon, trained.weights, base, theirs)
    merged = theirs.out_delta.with_name("merged")
    merge = m.Merge(
        id=7, base_path=str(base), new_path=str(theirs.out_weights), out_path=str(merged)
    )
    assert daemon.ask(merge, m.Merged).delta_bytes == merged.stat().st_size
    assert merged.read_bytes() == theirs.out_delta.read_bytes()  # a span of one step


def _materialised(daemon: Daemon, wanted: bytes, base: Path, files: StepFiles) -> None:
    out = base.with_name("out")
    by_delta = m.Materialise(
        id=6,
        version=VERSION,
        weights=wanted,
        out_path=str(out),
        base_path=str(base),
        delta_path=str(files.out_delta),
    )
    by_snapshot = msgspec.structs.replace(
        by_delta, base_path=None, delta_path=None, snapshot_path=str(files.out_weights)
    )
    for request in (by_delta, by_snapshot):
        daemon.ask(request, m.Materialised)
        assert weights.digest_of_file(out) == wanted
        out.unlink()
        wrong = msgspec.structs.replace(request, weights=bytes(32))
        assert daemon.ask(wrong, m.Failed).kind == "bad_input"
        assert not out.exists()


def test_a_run_that_cannot_be_served_ends_the_child_with_the_reason(daemon: Daemon) -> None:
    run = run_context(run_spec(toy=False))
    failed = daemon.ask(configure(run, "engine", dishonest=True), m.Failed)
    assert (failed.kind, failed.fatal) == ("bad_config", True)
    assert "toy" in failed.message
    assert daemon.process.wait(timeout=20) == 0
