"""Checks 1 to 5: every way to be wrong is refused at the check that names it (scenario 34)."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from primed import native
from primed.verify.assignment import assign
from primed.verify.batch import Batch, Group, Rollout, commitment_root, decode_batch, encode_batch
from primed.verify.checks import (
    Finding,
    ModelFacts,
    Stated,
    fingerprints,
    inspect_batch,
    rescore,
)
from primed.verify.runspec import (
    Admission,
    Band,
    EnvironmentSpec,
    ModelSpec,
    Parameters,
    Prices,
    ProofSpec,
    RunSpec,
    Sampling,
    Thresholds,
    Training,
)
from primed.verify.toploc import chunks_of

RUN, WORKER, VERSION, COUNTER = b"r" * 32, b"w" * 38, b"v" * 32, 7
EOS, VOCABULARY, HIDDEN, MAX_NEW = 2, 50, 6, 12
MODEL = ModelFacts(VOCABULARY, HIDDEN, EOS)
SIZES = (40,)
BAND = Band(accept=0, reject=0)
SPEC = RunSpec(
    name="test",
    originator=bytes(38),
    created_unix_ms=0,
    model=ModelSpec(architecture="llama", config={}, tokenizer="t", weights=bytes(32)),
    environments=(EnvironmentSpec(name="sums", digest=bytes(32)),),
    sampling=Sampling(groups=3, group_size=4, max_new_tokens=MAX_NEW),
    proof=ProofSpec(
        k=8,
        chunk_tokens=5,
        thresholds=Thresholds(
            sampling_mismatch=BAND, sampling_margin=BAND, proof_distance=BAND, logprob_error=BAND
        ),
    ),
    training=Training(),
    parameters=Parameters(duplicate_min_tokens=6),
    admission=Admission(),
    prices=Prices(),
)


def score(environment: int, prompt: int, ids: NDArray[np.uint32], finished: bool) -> int:
    return (environment + prompt + int(ids.sum())) * 1000 + finished


def tokens_of(rng: np.random.Generator) -> tuple[list[int], bool]:
    """Ends with EOS at some length, or not at all at the maximum."""
    n = int(rng.integers(1, MAX_NEW + 2))
    body = rng.integers(EOS + 1, VOCABULARY, MAX_NEW).tolist()
    return (body, False) if n > MAX_NEW else ([*body[: n - 1], EOS], True)


def rollout_of(prompt: int, ids: list[int], finished: bool) -> Rollout:
    rows = [np.full((n, HIDDEN), 0x3F80 + n, np.uint16) for n in chunks_of(len(ids), 5)]
    tokens = np.array(ids, "<u4")
    return Rollout(
        tokens=tokens.tobytes(),
        logprobs=np.full(len(ids), -3.5, "<f4").tobytes(),
        proofs=tuple(native.toploc_build(rows, 8)),
        reward_micro=score(0, prompt, tokens, finished),
        finished=finished,
    )


def honest_batch() -> Batch:
    rng = np.random.default_rng(1)
    groups = []
    for work in assign(RUN, WORKER, COUNTER, SPEC, SIZES):
        rollouts = tuple(rollout_of(work.prompt, *tokens_of(rng)) for _ in work.seeds)
        groups.append(Group(work.environment, work.prompt, rollouts))
    return Batch(RUN, WORKER, COUNTER, VERSION, "fp32/test/cpu", tuple(groups))


BATCH = honest_batch()


def stated_of(batch: Batch) -> Stated:
    return Stated(
        worker=WORKER,
        counter=COUNTER,
        version=VERSION,
        root=commitment_root(batch),
        rollouts=batch.total_rollouts,
        chunks=batch.total_chunks,
        tokens=batch.total_tokens,
    )


def inspect(batch: Batch, **changes: Any) -> Finding | None:
    stated = msgspec.structs.replace(stated_of(batch), **changes)
    return inspect_batch(batch, stated, RUN, SPEC, SIZES, MODEL, score)


def with_rollout(**changes: Any) -> Batch:
    """The honest batch with the last completion of group 1 changed."""
    group = BATCH.groups[1]
    changed = msgspec.structs.replace(group.rollouts[-1], **changes)
    return with_group(rollouts=(*group.rollouts[:-1], changed))


def with_group(**changes: Any) -> Batch:
    changed = msgspec.structs.replace(BATCH.groups[1], **changes)
    return msgspec.structs.replace(BATCH, groups=(BATCH.groups[0], changed, BATCH.groups[2]))


def with_tokens(ids: list[int], finished: bool) -> Batch:
    made = rollout_of(BATCH.groups[1].prompt, ids, finished)
    return with_rollout(**{name: getattr(made, name) for name in Rollout.__struct_fields__})


def failed(finding: Finding | None, check: str, *words: str) -> None:
    assert finding is not None
    assert finding.check == check, finding
    assert all(word in finding.detail for word in words), finding


def test_an_honest_batch_passes_after_a_journey() -> None:
    assert inspect(decode_batch(encode_batch(BATCH))) is None


LAST = BATCH.groups[1].rollouts[-1]
N = len(LAST.tokens) // 4


@pytest.mark.parametrize(
    "value", [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-3, -101, 1.0], ids=lambda v: f"{v}"
)
def test_log_probabilities_that_are_none_are_refused_at_schema(value: float) -> None:
    """Scenario 34: msgspec accepts NaN, so it is looked for."""
    logprobs = LAST.logprob_values.copy()
    logprobs[-1] = value
    batch = decode_batch(encode_batch(with_rollout(logprobs=logprobs.tobytes())))
    failed(inspect(batch), "schema", "group 1 sample 3", "log-probability")


def test_certain_and_denormal_log_probabilities_are_fine() -> None:
    logprobs = LAST.logprob_values.copy()
    logprobs[0] = 0.0
    logprobs[-1] = -1e-45
    assert inspect(with_rollout(logprobs=logprobs.tobytes())) is None
    logprobs[0] = -0.0
    logprobs[-1] = 1e-6
    assert inspect(with_rollout(logprobs=logprobs.tobytes())) is None


@pytest.mark.parametrize("logprobs", [LAST.logprobs[:-4], LAST.logprobs + bytes(4), b""])
def test_arrays_of_different_length_are_refused_at_schema(logprobs: bytes) -> None:
    failed(inspect(with_rollout(logprobs=logprobs)), "schema", "length")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("worker", b"x" * 38),
        ("counter", 8),
        ("version", b"x" * 32),
        ("rollouts", 11),
        ("chunks", 1),
        ("tokens", 10**9),
        ("root", bytes(32)),
    ],
)
def test_a_batch_that_was_not_committed_is_refused(field: str, value: Any) -> None:
    failed(inspect(BATCH, **{field: value}), "commitment", field)


def test_a_batch_of_another_run_is_refused() -> None:
    batch = msgspec.structs.replace(BATCH, run=b"x" * 32)
    failed(inspect(batch), "commitment", "run")


def test_any_change_after_commitment_is_refused() -> None:
    root = commitment_root(BATCH)
    batch = with_rollout(reward_micro=LAST.reward_micro + 1)
    failed(inspect(batch, root=root), "commitment", "root")
    batch = with_rollout(proofs=(*LAST.proofs[:-1], bytes(len(LAST.proofs[-1]))))
    failed(inspect(batch, root=root), "commitment", "root")


@pytest.mark.parametrize("changes", [{"prompt": 39}, {"environment": 1}, {"prompt": 2**62}])
def test_work_that_was_not_assigned_is_refused(changes: dict[str, int]) -> None:
    failed(inspect(with_group(**changes)), "assignment", "group 1")


def test_groups_in_another_order_are_not_the_assignment() -> None:
    batch = msgspec.structs.replace(BATCH, groups=BATCH.groups[::-1])
    failed(inspect(batch), "assignment")


def test_another_counter_is_another_assignment() -> None:
    batch = msgspec.structs.replace(BATCH, counter=8)
    failed(inspect(batch, counter=8), "assignment")


def test_missing_and_extra_groups_and_completions_are_refused() -> None:
    """A worker may not hide a group that it did not like."""
    batch = msgspec.structs.replace(BATCH, groups=BATCH.groups[:2])
    failed(inspect(batch), "counts", "2 groups")
    batch = msgspec.structs.replace(BATCH, groups=(*BATCH.groups, BATCH.groups[0]))
    failed(inspect(batch), "counts", "4 groups")
    failed(inspect(with_group(rollouts=BATCH.groups[1].rollouts[:3])), "counts", "3 completions")


@pytest.mark.parametrize(
    ("ids", "finished", "words"),
    [
        ([9] * (MAX_NEW + 1), False, "at most"),
        ([9, VOCABULARY, EOS], True, "vocabulary"),
        ([9, 2**32 - 1, EOS], True, "vocabulary"),
        ([9, EOS, 9, EOS], True, "after EOS"),
        ([EOS, *[9] * (MAX_NEW - 1)], False, "after EOS"),
        ([9, 9, EOS], False, "finished is False"),
        ([9] * MAX_NEW, True, "finished is True"),
        ([9, 9, 9], True, "finished is True"),
        ([9, 9, 9], False, "without EOS"),
        ([*[9] * (MAX_NEW - 1), EOS], False, "finished is False"),
    ],
)
def test_tokens_and_termination(ids: list[int], finished: bool, words: str) -> None:
    failed(inspect(with_tokens(ids, finished)), "counts", "group 1 sample 3", words)


@pytest.mark.parametrize(
    ("ids", "finished"),
    [([EOS], True), ([*[9] * (MAX_NEW - 1), EOS], True), ([9] * MAX_NEW, False)],
)
def test_shortest_and_longest_completions_pass(ids: list[int], finished: bool) -> None:
    assert inspect(with_tokens(ids, finished)) is None


def test_number_and_length_of_proofs_are_strict() -> None:
    failed(inspect(with_rollout(proofs=LAST.proofs[:-1])), "counts", "proofs")
    failed(inspect(with_rollout(proofs=(*LAST.proofs, LAST.proofs[0]))), "counts", "proofs")
    failed(inspect(with_rollout(proofs=())), "counts", "0 proofs")
    for wrong in (b"", LAST.proofs[0][:-2], LAST.proofs[0] + bytes(2), bytes(4096)):
        batch = with_rollout(proofs=(wrong, *LAST.proofs[1:]))
        failed(inspect(batch), "counts", "proof 0", "bytes")


def test_forged_rewards_are_refused() -> None:
    """Scenario 34."""
    batch = with_rollout(reward_micro=LAST.reward_micro + 1)
    failed(inspect(batch), "reward", "group 1 sample 3", str(LAST.reward_micro))


def test_a_scorer_that_raises_makes_the_sample_void() -> None:
    def breaks(environment: int, prompt: int, ids: NDArray[np.uint32], finished: bool) -> int:
        if ids.tobytes() == LAST.tokens:
            raise ZeroDivisionError
        return score(environment, prompt, ids, finished)

    batch = with_rollout(reward_micro=123)
    assert inspect_batch(batch, stated_of(batch), RUN, SPEC, SIZES, MODEL, breaks) is None
    values = {(g, s): value for g, s, value in rescore(batch, breaks)}
    assert values[1, 3] is None
    assert sum(value is None for value in values.values()) == 1


def copied(logprob: float, n: int = 8) -> Batch:
    """Two samples of one group with the same tokens."""
    made = rollout_of(BATCH.groups[1].prompt, [9] * (n - 1) + [EOS], True)
    made = msgspec.structs.replace(made, logprobs=np.full(n, logprob, "<f4").tobytes())
    return with_group(rollouts=(made, made, *BATCH.groups[1].rollouts[2:]))


def test_copies_within_a_batch_are_refused_when_chance_does_not_make_them() -> None:
    failed(inspect(copied(-5.0)), "duplicate", "2 times")
    assert inspect(copied(-0.1)) is None  # a policy that is sure of itself repeats itself
    assert inspect(copied(-8.0, n=5)) is None  # shorter than duplicate_min_tokens


def test_fingerprints_do_not_depend_on_who_says_it() -> None:
    other = msgspec.structs.replace(BATCH, worker=b"x" * 38, counter=99, version=b"y" * 32)
    assert fingerprints(other, 6) == fingerprints(BATCH, 6)
    long = [r for _, _, _, r in BATCH.rollouts() if len(r.tokens) // 4 * 3.5 >= 30]
    assert len(fingerprints(BATCH, 6)) == 1 + len(long) > 1
    changed = with_tokens([9] * MAX_NEW, False)
    assert fingerprints(changed, 6)[0] != fingerprints(BATCH, 6)[0]


@given(st.binary(max_size=60), st.binary(max_size=60), st.lists(st.binary(max_size=40), max_size=4))
def test_hostile_rollouts_never_raise(tokens: bytes, logprobs: bytes, proofs: list[bytes]) -> None:
    finding = inspect(with_rollout(tokens=tokens, logprobs=logprobs, proofs=tuple(proofs)))
    assert finding is None or finding.check in {"schema", "counts", "reward"}


@given(st.lists(st.integers(0, 60), min_size=1, max_size=14), st.booleans())
def test_only_whole_completions_pass(ids: list[int], finished: bool) -> None:
    whole = (finished and EOS in ids and ids.index(EOS) == len(ids) - 1 <= MAX_NEW - 1) or (
        not finished and EOS not in ids and len(ids) == MAX_NEW
    )
    finding = inspect(with_tokens(ids, finished))
    assert (finding is None) == (whole and max(ids) < VOCABULARY)
