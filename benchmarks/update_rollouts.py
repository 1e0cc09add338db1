"""Rollouts of SmolLM2 for `benchmarks.update`: small sums, sampled by our engine, with GRPO advantages."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from tokenizers import Tokenizer

from benchmarks import smollm
from primed.training import demo, grpo
from primed.training.packing import Sample
from primed.training.torch_engine import TorchEngine
from primed.verify.runspec import MICRO

Group = list[Sample]
Lessons = Iterator[list[Sample]]  # what each step learns from

GROUPS, GROUP_SIZE, NEW_TOKENS = 32, 4, 24
GROUPS_PER_STEP = 2
ROWS = 32  # decoded together


def groups() -> list[Group]:
    """Groups without spread are left out, as the learner does. The same on every call."""
    model, words_file = smollm.files()
    engine = TorchEngine(smollm.SPEC, demo.proof(), smollm.END)
    engine.rows_max = ROWS
    engine.load(model)
    words = Tokenizer.from_file(str(words_file))
    draw = np.random.default_rng(0)
    sums = [(int(a), int(b)) for a, b in draw.integers(2, 20, (GROUPS, 2))]
    prompts = [words.encode(_question(a, b)).ids for a, b in sums for _ in range(GROUP_SIZE)]
    made = engine.generate(prompts, range(len(prompts)), NEW_TOKENS, temperature=1.0)
    found = []
    for at, (a, b) in zip(range(0, len(prompts), GROUP_SIZE), sums, strict=True):
        answers = made[at : at + GROUP_SIZE]
        rewards = [
            _reward(words.decode(answer.ids.tolist()), a + b, answer.finished) for answer in answers
        ]
        if grpo.has_spread(rewards):
            advantages = grpo.advantages_of(rewards, dr_grpo=False).tolist()
            prompt = prompts[at]
            found.append(
                [
                    Sample(
                        np.array([*prompt, *answer.ids], np.int64),
                        len(prompt),
                        answer.logprobs,
                        advantage,
                    )
                    for answer, advantage in zip(answers, advantages, strict=True)
                ]
            )
    return found


def lessons(found: list[Group], seed: int) -> Lessons:
    """Without end; other ones for another seed."""
    draw = np.random.default_rng(seed)
    while True:
        chosen = draw.choice(len(found), GROUPS_PER_STEP, replace=False)
        yield [sample for number in chosen for sample in found[number]]


def _question(a: int, b: int) -> str:
    words = f"What is {a} + {b}? Answer with the number only."
    return f"<|im_start|>user\n{words}<|im_end|>\n<|im_start|>assistant\n"


def _reward(text: str, answer: int, is_finished: bool) -> int:
    """Half for the number, half for coming to an end."""
    return ((str(answer) in text) + is_finished) * MICRO // 2
