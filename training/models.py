"""Policy models: a Llama built from a RunSpec's numbers, filled from a bf16 safetensors file.

The class is a local one and its configuration an allow-list of bounded numbers, so nothing that a
peer sends can choose code. Published weights are bf16; engine and verifier compute in fp32 on the
bf16-rounded values, which makes decoding with a cache and prefilling agree to a few 1e-6.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaForCausalLM, LlamaRotaryEmbedding

from primed.native import rounding
from primed.training import weights
from primed.training.errors import BadConfig
from primed.verify.runspec import ModelSpec

Bounds = tuple[type, float, float]

# Keyword arguments of LlamaConfig that a run may set, with their types and inclusive bounds.
ALLOWED: dict[str, Bounds] = {
    "vocab_size": (int, 4, 1 << 20),
    "hidden_size": (int, 8, 1 << 15),
    "intermediate_size": (int, 8, 1 << 17),
    "num_hidden_layers": (int, 1, 256),
    "num_attention_heads": (int, 1, 512),
    "num_key_value_heads": (int, 1, 512),
    "head_dim": (int, 2, 1024),
    "max_position_embeddings": (int, 8, 1 << 20),
    "rms_norm_eps": (float, 1e-9, 1e-2),
    "rope_theta": (float, 1.0, 1e9),
    "tie_word_embeddings": (bool, 0, 1),
    "pad_token_id": (int, 0, 1 << 20),
    "bos_token_id": (int, 0, 1 << 20),
    "eos_token_id": (int, 0, 1 << 20),
}
REQUIRED = {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"}
REQUIRED |= {"num_attention_heads", "max_position_embeddings"}
PARAMETERS_MAX = 1 << 37


def build(spec: ModelSpec) -> LlamaForCausalLM:
    """The model on torch's `meta` device: shapes without storage. Raises BadConfig."""
    config = _config_of(spec)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    if sum(p.numel() for p in model.parameters()) > PARAMETERS_MAX:
        raise BadConfig(f"model has more than {PARAMETERS_MAX} parameters")
    # Its buffers are computed, not loaded, so they are made again with storage.
    model.model.rotary_emb = LlamaRotaryEmbedding(config=config)
    return model


def initialise(spec: ModelSpec, seed: int) -> LlamaForCausalLM:
    """A new model with random fp32 parameters, to be trained from nothing. Raises BadConfig."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(_config_of(spec))


def _config_of(spec: ModelSpec) -> LlamaConfig:
    values: dict[str, Any] = dict(spec.config)
    if missing := REQUIRED - set(values):
        raise BadConfig(f"model: {min(missing)} is missing")
    for key, value in spec.config.items():
        _check(key, value)
    heads, vocabulary = values["num_attention_heads"], values["vocab_size"]
    shared = values.get("num_key_value_heads", heads)
    if values["hidden_size"] % heads or heads % shared:
        raise BadConfig("model: heads do not divide the hidden size")
    if values.get("head_dim", values["hidden_size"] // heads) % 2:
        raise BadConfig("model: a head of odd size cannot be rotated")
    if any(values.get(key, 0) >= vocabulary for key in ALLOWED if key.endswith("_token_id")):
        raise BadConfig("model: a special token lies outside the vocabulary")
    theta = values.pop("rope_theta", 10_000.0)
    values["rope_parameters"] = {"rope_type": "default", "rope_theta": float(theta)}
    values["attn_implementation"] = "sdpa"
    return LlamaConfig(**values)


def _check(key: str, value: float) -> None:
    if key not in ALLOWED:
        raise BadConfig(f"model: {key!r:.40} may not be set by a run")
    kind, low, high = ALLOWED[key]
    fits_kind = type(value) is kind or (kind is float and type(value) is int)
    if not fits_kind or not low <= value <= high:
        raise BadConfig(f"model: {key} = {value!r:.40} is not {kind.__name__} in [{low}, {high}]")


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """What a weights file of this model must hold; tied tensors once."""
    return {name: tuple(p.shape) for name, p in sorted(model.named_parameters())}


def fill(model: LlamaForCausalLM, tensors: weights.Tensors) -> None:
    """Give the model fp32 parameters from bf16 (uint16) or fp32 arrays of its names and shapes."""
    state = {name: as_float(tensor) for name, tensor in tensors.items()}
    model.load_state_dict(state, strict=False, assign=True)  # not strict: a tied name is absent
    model.tie_weights()
    for parameter in model.parameters():
        if parameter.is_meta:
            raise BadConfig("weights do not fill the model")


def load(spec: ModelSpec, path: Path) -> LlamaForCausalLM:
    """The model with the weights of a bf16 file, in evaluation mode. Raises BadConfig, BadWeights."""
    model = build(spec)
    return frozen(model, weights.load(path, shapes_of(model)))


def frozen(model: LlamaForCausalLM, tensors: weights.Tensors) -> LlamaForCausalLM:
    """The model, filled, in evaluation mode. Raises BadConfig."""
    fill(model, tensors)
    model.requires_grad_(False).train(False)
    return model


def as_float(tensor: NDArray[np.generic]) -> Tensor:
    """fp32 copy of a bf16 (uint16) or fp32 array."""
    if tensor.dtype == np.uint16:
        wide = tensor.astype(np.uint32)
        wide <<= 16  # bf16 is the upper half of fp32
        return torch.from_numpy(wide.view(np.float32))
    return torch.from_numpy(tensor.astype(np.float32, copy=True))


def as_bf16(tensor: Tensor) -> NDArray[np.uint16]:
    """The tensor rounded to nearest even bf16, as uint16; a NaN has the same bits everywhere."""
    return rounding.bf16_of(tensor.detach().to("cpu", torch.float32).contiguous().numpy())


def policy_of(model: nn.Module) -> dict[str, NDArray[np.uint16]]:
    """The published form of a model: bf16 by name, tied tensors once."""
    return {name: as_bf16(parameter) for name, parameter in _sorted_parameters(model)}


def _sorted_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from sorted(model.named_parameters())
