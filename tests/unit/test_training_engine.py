"""The embedded engine: decoding agrees with prefilling, sampling replays, proofs score zero."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from primed.training import demo, environments, rollouts, verification
from primed.training.dishonest import DishonestEngine
from primed.training.engine import processed_logprobs
from primed.training.environments.sort_digits import SortDigits
from primed.training.errors import BadConfig
from primed.training.torch_engine import TorchEngine
from primed.training.weights import BadWeights
from primed.verify import judgement, sampling
from primed.verify.batch import Batch, commitment_root, decode_batch, encode_batch
from primed.verify.checks import Stated, inspect_batch
from primed.verify.runspec import MICRO, Sampling
from tests.unit.training_runs import (
    LOOSE,
    WORKER,
    batch_of,
    loaded_engine,
    run_context,
    run_spec,
    write_weights,
)

PROMPTS = [[1, 3, 4, 5, 6, 25], [1, 7], [1, 3, 3, 3, 3, 25], [1, 9, 10, 11], [1, 12]]
SEEDS = [5, 2**64 - 1, 0, 77, 1234567]


@pytest.fixture
def engine(tmp_path: Path) -> TorchEngine:
    spec = run_spec()
    return loaded_engine(spec, write_weights(tmp_path / "w", spec))


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
def test_decoding_agrees_with_prefilling(engine: TorchEngine, temperature: float) -> None:
    """Different prompt lengths, rows leaving at different times: no trace of it in the numbers."""
    made = engine.generate(PROMPTS, SEEDS, 40, temperature)
    assert len({len(completion.ids) for completion in made}) > 1, "the test needs early ends"
    seen = set()
    for index, own in engine.prefill(PROMPTS, [c.ids.tolist() for c in made]):
        seen.add(index)
        completion, first = made[index], len(PROMPTS[index])
        score = sampling.replay(own.logits, completion.ids, SEEDS[index], first, temperature)
        assert score.mismatches == 0
        again = processed_logprobs(own.logits, completion.ids, temperature)
        assert np.abs(again - completion.logprobs).max() < 1e-5
        assert completion.finished == (completion.ids[-1] == 2)
        assert 2 not in completion.ids[:-1].tolist()
        assert len(completion.proofs) == -(-len(completion.ids) // 32)
    assert seen == set(range(len(PROMPTS)))


def test_a_completion_does_not_depend_on_its_neighbours(engine: TorchEngine) -> None:
    together = engine.generate(PROMPTS, SEEDS, 6, 1.0)
    for prompt, seed, completion in zip(PROMPTS, SEEDS, together, strict=True):
        alone = engine.generate([prompt], [seed], 6, 1.0)[0]
        assert alone.ids.tolist() == completion.ids.tolist()
        assert np.allclose(alone.logprobs, completion.logprobs, atol=1e-5)


def test_prefill_in_several_passes_gives_the_same(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    completions = [[3, 4, 5], [6, 2], [7], [8, 9], [4] * 30]
    once = dict(engine.prefill(PROMPTS, completions))
    monkeypatch.setattr("primed.training.torch_engine.PREFILL_TOKENS", 8)
    for index, own in engine.prefill(PROMPTS, completions):
        assert np.allclose(own.logits, once[index].logits, atol=1e-4)
        assert own.rows.shape == (len(completions[index]), 96)


def test_a_prompt_without_room_is_refused(engine: TorchEngine) -> None:
    with pytest.raises(BadConfig, match="does not fit"):
        engine.generate([[1] * 60], [0], 6, 1.0)


def test_a_bad_file_leaves_the_old_version_loaded(engine: TorchEngine, tmp_path: Path) -> None:
    before = engine.generate(PROMPTS, SEEDS, 6, 1.0)
    (tmp_path / "bad").write_bytes(b"\x80\x04 not weights")
    with pytest.raises(BadWeights):
        engine.load(tmp_path / "bad")
    after = engine.generate(PROMPTS, SEEDS, 6, 1.0)
    assert [c.ids.tolist() for c in after] == [c.ids.tolist() for c in before]


# ---- batches -------------------------------------------------------------------------------


def stated(batch: Batch) -> Stated:
    return Stated(
        WORKER,
        batch.counter,
        batch.version,
        commitment_root(batch),
        batch.total_rollouts,
        batch.total_chunks,
        batch.total_tokens,
    )


def test_an_honest_batch_passes_all_checks_and_a_dishonest_one_only_the_first_five(
    tmp_path: Path,
) -> None:
    spec = run_spec(groups=4, group_size=8)
    run, path = run_context(spec), write_weights(tmp_path / "w", spec)
    verifier, cheat = loaded_engine(spec, path), DishonestEngine(spec, run.facts.eos)
    cheat.load(path)
    honest = batch_of(run, path)
    lie = rollouts.generate(cheat, run, WORKER, 0, honest.version)
    for batch, wanted in ((honest, ["accept"]), (lie, ["reject"])):
        batch = decode_batch(encode_batch(batch))
        assert not inspect_batch(
            batch, stated(batch), run.run_id, spec, run.sizes, run.facts, run.score
        )
        measured, malformed = verification.measure(verifier, run, batch, range(batch.total_chunks))
        outcome, reason = judgement.judge(measured, LOOSE, malformed)
        assert [outcome] == wanted, (reason, measured)
        assert reason in ("ok", "sampling", "proof")
    assert measured["proof_distance"] > LOOSE.proof_distance.reject, "the proofs do not fit either"


def test_malformed_proofs_are_counted_and_only_where_opened(tmp_path: Path) -> None:
    spec = run_spec()
    run, path = run_context(spec), write_weights(tmp_path / "w", spec)
    batch = batch_of(run, path)
    group = batch.groups[0]
    bad = msgspec.structs.replace(group.rollouts[0], proofs=(b"\xff" * 34,))
    groups = (msgspec.structs.replace(group, rollouts=(bad, *group.rollouts[1:])),)
    batch = msgspec.structs.replace(batch, groups=groups + batch.groups[1:])
    engine = loaded_engine(spec, path)
    assert verification.measure(engine, run, batch, [0, 1])[1] == 1
    assert verification.measure(engine, run, batch, [1, 2])[1] == 0
    assert verification.measure(engine, run, batch, [0])[1] == 1


def test_a_dishonest_engine_is_only_for_toy_runs() -> None:
    with pytest.raises(BadConfig, match="toy"):
        DishonestEngine(run_spec(toy=False), 2)


# ---- environments --------------------------------------------------------------------------


def test_sort_digits_pays_exactly_the_sorted_digits_and_the_end() -> None:
    task = SortDigits()
    assert task.prompt(3107) == [1, 6, 4, 3, 10, 25]
    right = [3, 4, 6, 10, 2]
    assert task.reward(3107, right, True) == MICRO
    for wrong in ([3, 4, 6, 10], [4, 3, 6, 10, 2], [3, 4, 6, 10, 10, 2], [2], [], [3, 4, 6, 25, 2]):
        assert task.reward(3107, wrong, True) == 0
    assert task.reward(3107, right, False) == 0
    assert task.describe(3107, right) == "3107>0137"
    with pytest.raises(ValueError, match="10000"):
        task.prompt(10_000)


def test_a_run_that_names_another_environment_is_refused() -> None:
    spec = run_spec()
    with pytest.raises(BadConfig, match="not installed"):
        environments.load("no-such-task")
    other = msgspec.structs.replace(spec.environments[0], digest=bytes(32))
    with pytest.raises(BadConfig, match="install the version"):
        run_context(msgspec.structs.replace(spec, environments=(other,)))


def test_the_demo_describes_a_valid_toy_run() -> None:
    spec = demo.run_spec(WORKER, bytes(32))
    assert spec.toy and spec.sampling == Sampling(groups=8, group_size=16, max_new_tokens=6)
    for band in msgspec.structs.astuple(spec.proof.thresholds):
        assert 0 < band.accept < band.reject
