"""kill -9 of the learner's daemon between two versions: the lineage goes on with the same step.

Three places in the order of a step's writes: the choice is journalled and nothing else is; state,
weights and delta are on disk and the manifest is not; the manifest is and nobody was told.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from primed.training import weights
from primed.verify.statements import Manifest, version_of

from .books import Books, assert_sound, books_of
from .running import RunningSwarm, freeze_when, kill_when

pytestmark = pytest.mark.timeout(300)

Choice = tuple[int, tuple[bytes, ...]]


def step_begun(books: Books) -> Choice | None:
    """The journalled choice of a step that has no manifest yet."""
    choice = books.choice()
    is_open = choice is not None and choice[0] > max(books.manifests(), default=0)
    return choice if is_open else None


def folder_of(running: RunningSwarm) -> Path:
    return running["learner"].paths.run(bytes.fromhex(running.run)) / "learner"


def comes(path: Path, at_most_s: float = 5.0) -> bool:
    """Whether the learner's child, which works on while its daemon is stopped, writes this file."""
    deadline = time.monotonic() + at_most_s
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return path.exists()


def comes_back(running: RunningSwarm, choice: Choice) -> Manifest:
    """Start the learner again; its next version is the journalled step, made of the same batches,
    and all daemons go on from it."""
    step, batches = choice
    running["learner"].restart()
    books = books_of(running, "learner")
    running.until(lambda: step in books.manifests(), f"the manifest of step {step}")
    manifest = books.manifests()[step]
    assert manifest.consumed == batches
    running.goes_on("worker-1", "worker-2", "verifier")
    for name in running.up():
        assert version_of(books_of(running, name).manifests()[step]) == version_of(manifest)
    assert_sound(running)
    return manifest


def test_killed_while_it_trains(running: RunningSwarm) -> None:
    node, books = running["learner"], books_of(running, "learner")
    (child,) = node.status().children
    assert child.pid is not None
    choice = freeze_when(node, lambda: step_begun(books), "a step under way")
    os.kill(child.pid, signal.SIGKILL)  # both at once, as when the power goes
    node.kill()
    comes_back(running, choice)


def test_killed_after_the_files_were_written_it_makes_the_same_bits_again(
    running: RunningSwarm, tmp_path: Path
) -> None:
    node, books = running["learner"], books_of(running, "learner")
    folder = folder_of(running)
    assert node.process is not None

    def step_without_files() -> Choice | None:
        choice = step_begun(books)
        return choice if choice and not (folder / f"weights-{choice[0]}").exists() else None

    choice = freeze_when(node, step_without_files, "a step under way")
    while not comes(folder / f"delta-{choice[0]}"):  # stopped before it told the child: once more
        node.process.send_signal(signal.SIGCONT)
        choice = freeze_when(node, step_without_files, "a step under way")
    made = folder / f"weights-{choice[0]}"
    first = weights.digest_of_file(made)
    node.kill()
    os.link(made, tmp_path / "first")
    manifest = comes_back(running, choice)
    assert manifest.weights == first == weights.digest_of_file(tmp_path / "first")


def test_killed_before_anybody_heard_of_the_manifest(running: RunningSwarm) -> None:
    node, books = running["learner"], books_of(running, "learner")
    known = books.manifests()

    def stated() -> int | None:
        step = max(books.manifests())
        return step if step not in known and not books.is_step_done(step) else None

    step = kill_when(node, stated, "a manifest that is not pushed yet")
    manifest = books.manifests()[step]
    chosen = books.choice()
    assert chosen == (step, manifest.consumed)
    assert comes_back(running, chosen) == manifest
