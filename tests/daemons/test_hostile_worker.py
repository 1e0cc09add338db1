"""Malformed batches with rightly signed commitments: rejected, their worker excluded everywhere, and
no version holds them (scenario 34)."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import trio

from primed.p2p import peerid
from primed.verify.batch import Batch, MalformedBatch, decode_batch, encode_batch
from primed.verify.statements import version_of

from .books import assert_sound, books_of
from .hostile_worker import HostileWorker
from .running import RunningSwarm

pytestmark = pytest.mark.timeout(300)


def honest_batch(running: RunningSwarm) -> Batch | None:
    """One that the verifier holds at the moment."""
    folder = running["verifier"].paths.run(bytes.fromhex(running.run)) / "batches"
    for path in folder.iterdir():
        try:
            return decode_batch(path.read_bytes())
        except (MalformedBatch, OSError):  # another file, or one that is deleted just now
            continue
    return None


def with_nan(batch: Batch, worker: bytes, counter: int, version: bytes) -> bytes:
    """The batch as the worker's own, with log-probabilities that are no numbers."""
    first, *others = batch.groups
    rollout = first.rollouts[0]
    nan = np.full(len(rollout.logprobs) // 4, np.nan, "<f4").tobytes()
    broken = msgspec.structs.replace(rollout, logprobs=nan)
    group = msgspec.structs.replace(first, rollouts=(broken, *first.rollouts[1:]))
    forged = msgspec.structs.replace(
        batch, worker=worker, counter=counter, version=version, groups=(group, *others)
    )
    return encode_batch(forged)


def test_scenario_34_malformed_batches_are_rejected_and_never_trained_on(
    running: RunningSwarm, tmp_path: Path
) -> None:
    nodes = running.up()
    addresses = [node.address() for node in nodes.values()]
    honest = running.until(lambda: honest_batch(running), "a batch to forge")
    children = running["verifier"].status().children
    worker = HostileWorker(bytes.fromhex(running.run), tmp_path)
    text = peerid.to_text(worker.peer)

    async def cheat() -> list[bytes]:
        made = []
        async with worker.joined(addresses):
            for counter in range(2):
                books = books_of(running, "relay")
                manifests, cut = books.manifests(), max(books.states(), key=lambda s: s.number)
                seen = version_of(manifests[max(manifests)])
                forged = with_nan(honest, worker.peer, counter, seen)
                made.append(
                    await worker.commit(
                        counter,
                        forged if counter else b"\x91" * 2000,
                        holder=running["verifier"].peer,
                        learner=running["learner"].peer,
                        seen=seen,
                        cut=cut,
                    )
                )
            with trio.fail_after(30):
                while not await trio.to_thread.run_sync(is_excluded_everywhere):
                    await trio.sleep(0.1)
        return made

    def is_excluded_everywhere() -> bool:
        return all(text in running.view(name).excluded for name in nodes)

    commitments = set(trio.run(cheat))
    accounts = {account.peer: account for account in running.view("learner").accounts}
    assert accounts[text].reason == "batch 0: schema, batch 1: schema"
    assert accounts[text].final == accounts[text].pending == 0
    running.goes_on(*nodes)
    manifests = books_of(running, "learner").manifests()
    assert not commitments & {c for manifest in manifests.values() for c in manifest.consumed}
    after = running["verifier"].status().children
    assert [child.restarts for child in after] == [child.restarts for child in children]
    assert_sound(running)
