"""The learner: one GRPO step from a state file and batches to the next state, weights and delta.

Everything it knows between steps is in one safetensors file (fp32 master weights, AdamW's two
moments, step, trend), so a step is a function of files: repeated after a crash with the same
threads on the same machine it gives the same bits. Published weights are the master rounded to
bf16. A step that is not finite is refused and leaves every file as it was (algorithms.md section 1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from primed.training import alarms, deltas, grpo, lessons, models, packing, weights
from primed.training.environments import Environment
from primed.training.errors import BadInput
from primed.training.messages import FORWARD_TOKENS
from primed.verify.runspec import RunSpec

EPSILON = 1e-8  # AdamW's
_FORMAT = "primed-learner-state/1"


class StepRefused(Exception):
    """No step was made, nothing was written; the message says why (batches are quarantined)."""


@dataclass(frozen=True)
class StepFiles:
    """Where a step reads and writes."""

    parent: Path  # parent version's weights, bf16
    reference: Path  # base checkpoint, for the KL term
    state: Path | None  # None at the first step: from the parent's weights
    batches: Sequence[Path]
    out_state: Path
    out_weights: Path
    out_delta: Path
    forward_tokens: int = FORWARD_TOKENS  # bounds memory; sums may differ in their last bits


@dataclass(frozen=True)
class StepResult:
    weights: bytes  # weights digest
    delta_bytes: int
    metrics: dict[str, float]
    alarm: str


@dataclass(frozen=True)
class _Start:
    """State after the step before: moments are empty before the first."""

    master: dict[str, NDArray[np.float32]]
    moments: dict[str, NDArray[np.float32]]  # m.<name> and v.<name>
    trend: alarms.Trend


class Learner:
    """Makes steps of one run. Raises BadConfig if the run's model cannot be built."""

    def __init__(self, spec: RunSpec, environments: Sequence[Environment]) -> None:
        self._spec = spec
        self._environments = environments
        self._shapes = models.shapes_of(models.build(spec.model))

    def step(self, number: int, files: StepFiles) -> StepResult:
        """Make step `number` (the parent's + 1). Every file is complete and synced on return.
        Raises StepRefused, UnusableBatch, BadInput; then nothing was written."""
        lesson = lessons.read(files.batches, self._spec, self._environments)
        start = self._start_of(number, files)
        model = models.build(self._spec.model)
        models.fill(model, start.master)
        reference = models.load(self._spec.model, files.reference)
        metrics = _accumulate(model, reference, lesson.samples, self._spec, files.forward_tokens)
        metrics["grad_norm"] = self._clipped(model)
        metrics["reward_mean"] = lesson.reward_mean
        if bad := [name for name, value in metrics.items() if not math.isfinite(value)]:
            raise StepRefused(f"step {number}: {bad[0]} is not finite")
        moments = self._advance(model, start.moments, number)
        trend, alarm = alarms.observe(start.trend, metrics)
        digest, delta_bytes = self._publish(model, moments, trend, number, files)
        return StepResult(digest, delta_bytes, metrics, alarm)

    def _start_of(self, number: int, files: StepFiles) -> _Start:
        parent = weights.load(files.parent, self._shapes)
        if files.state is None:
            master = {name: models.as_float(tensor).numpy() for name, tensor in parent.items()}
            return _Start(master, {}, alarms.Trend())
        start = _read_state(files.state, self._shapes, number - 1)
        for name, tensor in parent.items():
            if not np.array_equal(models.as_bf16(models.as_float(start.master[name])), tensor):
                raise BadInput(f"{files.state.name} is not the state behind {files.parent.name}")
        return start

    def _clipped(self, model: LlamaForCausalLM) -> float:
        """Clips the gradient; returns its norm before."""
        for parameter in model.parameters():
            if parameter.grad is None:  # nothing to learn from: AdamW still moves on its momentum
                parameter.grad = torch.zeros_like(parameter)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), self._spec.training.grad_clip)
        return float(norm)

    def _advance(
        self, model: LlamaForCausalLM, moments: dict[str, NDArray[np.float32]], number: int
    ) -> dict[str, NDArray[np.float32]]:
        """One AdamW update in place; returns the new moments."""
        training = self._spec.training
        named = dict(sorted(model.named_parameters()))
        optimiser = torch.optim.AdamW(
            named.values(),
            lr=training.lr * min(1.0, number / max(1, training.warmup_steps)),
            betas=(training.beta1, training.beta2),
            eps=EPSILON,
            weight_decay=training.weight_decay,
        )
        for name, parameter in named.items():
            if moments:
                optimiser.state[parameter] = {
                    "step": torch.tensor(float(number - 1)),
                    "exp_avg": torch.from_numpy(moments[f"m.{name}"].copy()),
                    "exp_avg_sq": torch.from_numpy(moments[f"v.{name}"].copy()),
                }
        optimiser.step()
        after: dict[str, NDArray[np.float32]] = {}
        for name, parameter in named.items():
            after[f"m.{name}"] = optimiser.state[parameter]["exp_avg"].numpy()
            after[f"v.{name}"] = optimiser.state[parameter]["exp_avg_sq"].numpy()
        return after

    def _publish(
        self,
        model: LlamaForCausalLM,
        moments: dict[str, NDArray[np.float32]],
        trend: alarms.Trend,
        number: int,
        files: StepFiles,
    ) -> tuple[bytes, int]:
        policy = models.policy_of(model)
        if any(np.any((tensor & 0x7F80) == 0x7F80) for tensor in policy.values()):
            raise StepRefused(f"step {number}: a weight is not finite")
        _write_state(files.out_state, model, moments, trend, number)
        weights.write(files.out_weights, policy)
        delta_bytes = deltas.encode(files.parent, files.out_weights, files.out_delta)
        return weights.digest_of(policy), delta_bytes


def _accumulate(
    model: LlamaForCausalLM,
    reference: LlamaForCausalLM,
    samples: Sequence[packing.Sample],
    spec: RunSpec,
    forward_tokens: int,
) -> dict[str, float]:
    """Gradient of the mean loss over the completion tokens of `samples`, and its metrics.

    A forward pass takes rows of at most forward_tokens together; below one row of max_tokens the
    rows get shorter too, down to the longest sample."""
    budget = max(1, sum(sample.completion_tokens for sample in samples))
    lengths = [len(sample.tokens) for sample in samples]
    width = max(min(spec.training.max_tokens, forward_tokens), max(lengths, default=1))
    rows = packing.rows_of(lengths, width)
    at_once = max(1, forward_tokens // width)
    totals = dict.fromkeys(("loss", "kl", "mismatch_kl", "entropy", "clip_fraction"), 0.0)
    ratio_max = 0.0
    for at in range(0, len(rows), at_once):
        part = rows[at : at + at_once]
        packed = packing.pack([[samples[i] for i in row] for row in part])
        loss, sums, largest = loss_of(model, reference, packed, spec)
        (loss / budget).backward()  # type: ignore[no-untyped-call]
        totals["loss"] += float(loss.detach())
        for name, value in sums.items():
            totals[name] += value
        ratio_max = max(ratio_max, largest)
    metrics = {name: value / budget for name, value in totals.items()}
    return metrics | {"ratio_max": ratio_max, "tokens": float(budget if samples else 0)}


def loss_of(
    model: LlamaForCausalLM, reference: LlamaForCausalLM, packed: packing.Packed, spec: RunSpec
) -> tuple[Tensor, dict[str, float], float]:
    """Loss summed over the packed completion tokens, sums of metrics, the largest ratio."""
    temperature = spec.sampling.temperature or 1.0
    now = log_probabilities(model, packed, temperature)  # [N, V]
    chosen = now.gather(1, packed.targets[:, None])[:, 0]  # [N]
    ratio = grpo.ratios(chosen, packed.logprobs)
    loss = grpo.policy_losses(ratio, packed.advantages, spec.training).sum()
    with torch.no_grad():
        theirs = log_probabilities(reference, packed, temperature)
        theirs = theirs.gather(1, packed.targets[:, None])[:, 0]
    divergence = grpo.divergences(chosen, theirs)
    with torch.no_grad():
        sums = {
            "kl": float(divergence.sum()),
            "mismatch_kl": float(grpo.divergences(chosen, packed.logprobs).sum()),
            "entropy": float(grpo.entropies(now).sum()),
            "clip_fraction": float(grpo.clip_counts(ratio, spec.training)),
        }
    return loss + spec.training.kl * divergence.sum(), sums, float(ratio.detach().max())


def log_probabilities(
    model: LlamaForCausalLM, packed: packing.Packed, temperature: float
) -> Tensor:
    """Processed log-probabilities [N, V] at the places that predict the packed completions."""
    states = model.model(
        input_ids=packed.ids,
        position_ids=packed.positions,
        attention_mask=packed.mask,
        use_cache=False,
    ).last_hidden_state
    logits = model.lm_head(states.flatten(0, 1)[packed.states])
    return torch.log_softmax(logits.float() / temperature, dim=-1)


def _write_state(
    path: Path,
    model: LlamaForCausalLM,
    moments: Mapping[str, NDArray[np.float32]],
    trend: alarms.Trend,
    number: int,
) -> None:
    master = {f"master.{name}": p.detach().numpy() for name, p in model.named_parameters()}
    about = {
        "format": _FORMAT,
        "step": str(number),
        "trend": msgspec.json.encode(trend).decode(),
    }
    weights.write(path, {**master, **moments}, about)


def _read_state(path: Path, shapes: weights.Shapes, step: int) -> _Start:
    tensors, about = weights.read(path)
    if about.get("format") != _FORMAT or about.get("step") != str(step):
        raise BadInput(f"{path.name} is not the learner's state after step {step}")
    wanted = {f"{part}.{name}": shape for part in "mv" for name, shape in shapes.items()}
    wanted |= {f"master.{name}": shape for name, shape in shapes.items()}
    found: dict[str, Any] = {name: tensor.shape for name, tensor in tensors.items()}
    if found != wanted or any(tensor.dtype != np.float32 for tensor in tensors.values()):
        raise BadInput(f"{path.name} does not fit the run's model")
    master = {name: tensors[f"master.{name}"] for name in shapes}
    moments = {name: tensors[name] for name in tensors if not name.startswith("master.")}
    trend = msgspec.json.decode(about.get("trend", "{}"), type=alarms.Trend)
    return _Start(master, moments, trend)
