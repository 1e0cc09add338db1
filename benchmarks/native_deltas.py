"""Figures of weight deltas, quantised blocks, rounding and digests, one thread each.

Rates are per core-second of this thread, the best of 7 runs, and stand beside what memory or BLAKE3
alone do in the same run. Sizes are of real steps: a small Llama learns bytes of Python's standard
library, then takes policy-gradient steps at three learning rates; the last step counts, after Adam
has settled. The baseline "gap + zstd" is the form without exponent classes: gaps of the changed
places as bytes, the new weights, zstd level 3 over each. Called by benchmarks.native.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray
from torch import Tensor, nn

from primed.native import deltas, quantised, rounding
from primed.training import models
from primed.verify import merkle
from primed.verify.runspec import ModelSpec

U16 = NDArray[np.uint16]
Figure = tuple[str, float, str, dict[str, float]]  # name, value, unit, beside it in the same run

CHUNK = 8 * 1024 * 1024  # weights of a delta's chunk
RUNS = 7
WARM_STEPS, SETTLED_STEPS, SPAN = 120, 20, 8
BATCH, LENGTH = 8, 64
# algorithms.md section 5, on its own model and steps (0.7, 2 and 7 % changed)
DESIGN_RATIOS = {"lr1e-6": 341.0, "lr3e-6": 113.0, "lr1e-5": 38.0, f"lr3e-6.span{SPAN}": 31.0}
SPEC = ModelSpec(
    architecture="llama",
    tokenizer="bytes",
    weights=bytes(32),
    config={
        "vocab_size": 256,
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": LENGTH,
    },
)


def figures() -> Iterator[Figure]:
    """All of this module's figures, about a minute of CPU."""
    torch.set_num_threads(1)
    yield from delta_sizes()
    yield from delta_rates()
    yield from quantise_rates()
    yield from rounding_rates()
    yield from digest_rates()


def seconds_of(work: Callable[[], object]) -> float:
    """CPU-seconds of this thread, the best of RUNS."""
    best = float("inf")
    for _ in range(RUNS):
        begin = time.thread_time()
        work()
        best = min(best, time.thread_time() - begin)
    return best


def memory_rate() -> float:
    """Bytes a second that one thread reads from memory: 256 MiB, more than caches hold."""
    words = np.ones(32 << 20, np.uint64)
    return words.nbytes / seconds_of(words.max)


def delta_rates() -> Iterator[Figure]:
    """A chunk of which 2 % changes, rarer where weights are larger, as an optimiser makes it."""
    draw = np.random.default_rng(1)
    old = rounding.bf16_of((draw.normal(size=CHUNK) * 0.02).astype(np.float32))
    size = np.abs((old.astype(np.uint32) << 16).view(np.float32))
    chance = np.minimum(1.0, 1e-4 / np.maximum(size, 1e-9))
    changes = draw.random(CHUNK) < chance * (0.02 / chance.mean())
    new = (old + changes * draw.choice(np.array([1, 0xFFFF], np.uint16), CHUNK)).astype(np.uint16)
    packed, out = deltas.pack(old, new), np.empty_like(old)
    memory = memory_rate()
    about = {"changed_percent": 100 * float((old != new).mean()), "memory_read": memory}
    rate = old.nbytes / seconds_of(lambda: deltas.pack(old, new))
    yield "delta_encode_rate", rate, "B/core-s", about
    rate = old.nbytes / seconds_of(lambda: deltas.unpack(old, packed, out))
    assert np.array_equal(out, new)
    yield "delta_decode_rate", rate, "B/core-s", about


def quantise_rates() -> Iterator[Figure]:
    """Bytes of fp32 numbers."""
    numbers = np.random.default_rng(2).normal(size=CHUNK).astype(np.float32)
    total, about = numbers.copy(), {"memory_read": memory_rate()}
    for name, bits in (("int8", 8), ("int4", 4), ("ternary", 2)):
        data = quantised.quantise(bits, numbers)
        works: dict[str, Callable[[], object]] = {
            "encode": partial(quantised.quantise, bits, numbers),
            "decode": partial(quantised.dequantise, bits, data, len(numbers)),
            "accumulate": partial(quantised.accumulate, bits, data, total),
        }
        for verb, work in works.items():
            rate = numbers.nbytes / seconds_of(work)
            yield f"quantise_rate.{name}.{verb}", rate, "B/core-s", about


def rounding_rates() -> Iterator[Figure]:
    """Bytes read and written."""
    numbers = np.random.default_rng(3).normal(size=CHUNK).astype(np.float32)
    rows = [rounding.bf16_of(numbers + np.float32(0.01) * i) for i in range(4)]
    quarters, odd = np.full(4, 0.25), np.array([0.137, 0.211, 0.305, 0.347])
    about = {"memory_read": memory_rate()}
    seconds = seconds_of(lambda: rounding.bf16_of(numbers))
    yield "rne_rate", 6 * CHUNK / seconds, "B/core-s", about
    for name, weights in (("average_rate", quarters), ("average_rate.odd_weights", odd)):
        seconds = seconds_of(partial(rounding.average_bf16, rows, weights))
        yield name, 10 * CHUNK / seconds, "B/core-s", {"rows": 4, **about}


def digest_rates() -> Iterator[Figure]:
    """Leaves of 4 MiB, as in a weights digest, beside BLAKE3 over the whole."""
    from blake3 import blake3

    data = np.random.default_rng(4).integers(0, 256, 64 << 20, dtype=np.uint8).data
    plain = data.nbytes / seconds_of(lambda: blake3(data).digest())
    rate = data.nbytes / seconds_of(lambda: merkle.root_of(merkle.leaf_hashes(data, 4 << 20)))
    yield "digest_rate", rate, "B/core-s", {"blake3": plain}


def delta_sizes() -> Iterator[Figure]:
    model, corpus = _warm_model()
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, rate in (("lr1e-6", 1e-6), ("lr3e-6", 3e-6), ("lr1e-5", 1e-5)):
        model.load_state_dict(start)
        rows = list(_policy_rows(model, corpus, rate))
        yield from _sizes(name, rows[-2], rows[-1])
        if name == "lr3e-6":
            yield from _sizes(f"{name}.span{SPAN}", rows[-1 - SPAN], rows[-1])


def _sizes(name: str, old: U16, new: U16) -> Iterator[Figure]:
    size, plain = len(deltas.pack(old, new)), gap_zstd_bytes(old, new)
    about = {
        "changed_percent": 100 * float((old != new).mean()),
        "weights": float(old.size),
        "design_codec": old.nbytes / _design_codec_bytes(old, new),
        "design_on_its_own_steps": DESIGN_RATIOS[name],
    }
    yield f"delta_size_ratio.{name}", old.nbytes / size, "x", about
    yield f"delta_size_vs_gap_zstd.{name}", plain / size, "x", {"gap_zstd": old.nbytes / plain}


def gap_zstd_bytes(old: U16, new: U16) -> int:
    places = np.flatnonzero(old != new)
    compress = zstandard.ZstdCompressor(level=3).compress
    return len(compress(_gap_bytes(places))) + len(compress(new[places].tobytes()))


def _gap_bytes(places: NDArray[np.intp]) -> bytes:
    escapes, rest = np.divmod(np.diff(places, prepend=-1) - 1, 255)
    gaps = np.full(len(rest) + int(escapes.sum()), 255, np.uint8)
    gaps[np.cumsum(escapes + 1) - 1] = rest
    return gaps.tobytes()


def _design_codec_bytes(old: U16, new: U16) -> int:
    """The codec whose sizes algorithms.md section 5 states, on these steps: of each exponent gaps as
    a zstd frame of its own; signs of +-1; gaps and zigzag bytes of the other distances; level 3."""
    compress = zstandard.ZstdCompressor(level=3).compress
    exponents, size = (old >> 7) & 0xFF, 0
    for exponent in np.unique(exponents):
        members = np.flatnonzero(exponents == exponent)
        changed = np.flatnonzero(old[members] != new[members])
        size += 4 + len(compress(_gap_bytes(changed))) if len(changed) else 2
    order = np.argsort(exponents, kind="stable")
    order = order[old[order] != new[order]]
    ordered = [np.where(w & 0x8000, -(w & 0x7FFF).astype(int), w) for w in (old, new)]
    steps = (ordered[1] - ordered[0])[order]
    others = np.flatnonzero(np.abs(steps) != 1)
    coded = np.minimum(np.abs(steps[others]), 127) * 2 + (steps[others] < 0)
    size += len(compress(_gap_bytes(others))) + len(compress(coded.astype(np.uint8).tobytes()))
    return size + (len(steps) - len(others) + 7) // 8


def _corpus() -> Tensor:
    files = sorted(Path(json.__file__).parents[1].glob("*.py"))  # the standard library
    text = b"".join(path.read_bytes() for path in files[:100])
    return torch.tensor(np.frombuffer(text, np.uint8).astype(np.int64))


def _batch(corpus: Tensor) -> Tensor:
    begins = torch.randint(0, len(corpus) - LENGTH, (BATCH,)).tolist()
    return torch.stack([corpus[at : at + LENGTH] for at in begins])


def _logprobs(model: nn.Module, tokens: Tensor) -> Tensor:
    logits = model(tokens).logits[:, :-1].flatten(0, 1)
    losses = nn.functional.cross_entropy(logits, tokens[:, 1:].flatten(), reduction="none")
    return -losses.view(BATCH, -1)


def _stepped(optimiser: torch.optim.Optimizer, model: nn.Module, loss: Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()


def _warm_model() -> tuple[Any, Tensor]:
    model, corpus = models.initialise(SPEC, 0), _corpus()
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, WARM_STEPS)
    for _ in range(WARM_STEPS):
        _stepped(optimiser, model, -_logprobs(model, _batch(corpus)).mean())
        schedule.step()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
    return model, corpus


def _policy_rows(model: Any, corpus: Tensor, rate: float) -> Iterator[U16]:
    """The published weights as one row, before the first and after every step."""
    optimiser = torch.optim.AdamW(model.parameters(), rate, betas=(0.9, 0.999), weight_decay=0.0)
    yield _row(model)
    for _ in range(SETTLED_STEPS):
        advantage = torch.randn(BATCH)
        advantage = (advantage - advantage.mean()) / advantage.std()
        _stepped(optimiser, model, -(advantage[:, None] * _logprobs(model, _batch(corpus))).mean())
        yield _row(model)


def _row(model: nn.Module) -> U16:
    return np.concatenate([tensor.reshape(-1) for tensor in models.policy_of(model).values()])
