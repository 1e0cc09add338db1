"""The demo's base checkpoint: a toy policy that has seen right answers among many wrong ones.

250 supervised steps of 128 examples; an example is right 20 % of the time, else the digits copied,
reversed, descending or random. The result answers about one prompt in eight exactly: RL then picks
out and sharpens what is already there (algorithms.md section 1, "Demo recipe").

`python -m primed.training.warmstart --out base.safetensors --seed 0` prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from primed.training import demo, models, weights
from primed.training.environments.sort_digits import DIGITS, SortDigits
from primed.training.tokenizers import Tokenizer, load
from primed.verify.runspec import MICRO

STEPS = 250
EXAMPLES = 128
LR = 2e-3
RIGHT_SHARE = 0.2
_EVALUATED = 512


def make(seed: int, steps: int = STEPS, right_share: float = RIGHT_SHARE) -> LlamaForCausalLM:
    """Train the base policy. Equal seeds give equal weights on one machine with one thread."""
    draw = random.Random(seed)
    environment, tokenizer = SortDigits(), load(demo.TOKENIZER)
    model = models.initialise(demo.model(bytes(32)), seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.99), weight_decay=0.0)
    for _ in range(steps):
        indices = [draw.randrange(environment.size) for _ in range(EXAMPLES)]
        loss = _loss_of(model, _examples(environment, tokenizer, indices, draw, right_share))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    model.train(False)
    return model


def _examples(
    environment: SortDigits,
    tokenizer: Tokenizer,
    indices: Sequence[int],
    draw: random.Random,
    right_share: float,
) -> Tensor:
    rows = [
        environment.prompt(index)
        + tokenizer.encode(_shown_answer(environment, index, draw, right_share))
        + [tokenizer.eos]
        for index in indices
    ]
    return torch.tensor(rows)  # [B, 1 + DIGITS + 1 + DIGITS + 1]


def _shown_answer(
    environment: SortDigits, index: int, draw: random.Random, right_share: float
) -> str:
    right = environment.answer(index)
    if draw.random() <= right_share:
        return right
    digits = environment.question(index)[:-1]
    noise = "".join(draw.choice("0123456789") for _ in range(DIGITS))
    shown = draw.choice([digits, digits[::-1], right[::-1], noise])
    return noise if shown == right else shown


def _loss_of(model: LlamaForCausalLM, examples: Tensor) -> Tensor:
    prompt_tokens = DIGITS + 2
    logits = model(input_ids=examples[:, :-1]).logits[:, prompt_tokens - 1 :].float()
    targets = examples[:, prompt_tokens:]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


@torch.inference_mode()
def exact_reward(model: LlamaForCausalLM, seed: int = 999) -> float:
    """Share of prompts that the model answers exactly when it samples at T = 1."""
    environment, generator = SortDigits(), torch.Generator().manual_seed(seed)
    draw = random.Random(seed)
    indices = [draw.randrange(environment.size) for _ in range(_EVALUATED)]
    ids = torch.tensor([environment.prompt(index) for index in indices])
    prompt_tokens = ids.shape[1]
    for _ in range(DIGITS + 1):
        likely = model(input_ids=ids).logits[:, -1].softmax(-1)
        ids = torch.cat([ids, torch.multinomial(likely, 1, generator=generator)], dim=1)
    answers = ids[:, prompt_tokens:].tolist()
    rewards = (
        environment.reward(i, answer, True) for i, answer in zip(indices, answers, strict=True)
    )
    return sum(rewards) / MICRO / len(indices)


def main() -> None:
    parser = argparse.ArgumentParser(description="make the demo's base checkpoint")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    model = make(arguments.seed)
    weights.write(arguments.out, models.policy_of(model))
    report = {
        "out": str(arguments.out),
        "weights": weights.digest_of_file(arguments.out).hex(),
        "exact_reward": exact_reward(model),
        "seconds": round(time.process_time() - began, 2),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
