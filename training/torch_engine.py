"""The embedded engine: a hand-written decode loop over a transformers model, on the CPU.

Prompts of one length are decoded together with a cache; finished rows leave the batch at once. The
state that enters the LM head at each sampled place is kept as bf16 and proved in chunks at the end.
Computes in fp32 on bf16 weights. Prefill pads on the right: attention is causal, so padding after
a sequence cannot reach it and no mask is needed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.cache_utils import DynamicCache
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from primed import native
from primed.training import models, weights
from primed.training.engine import Completion, Prefill, processed_logprobs
from primed.training.errors import BadConfig
from primed.verify import sampling
from primed.verify.runspec import ModelSpec, ProofSpec

PREFILL_TOKENS = 8192  # padded tokens a forward pass; bounds the logits held at once

# Of one step of decoding: which rows, their tokens, log-probabilities and LM head inputs.
_Step = tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.float32], NDArray[np.uint16]]


class TorchEngine:
    """primed.training.engine.Engine in this process. `load` before anything else."""

    profile = "fp32/torch/cpu"
    rows_max = 0  # sequences decoded at once; 0: all of one prompt length

    def __init__(self, model: ModelSpec, proof: ProofSpec, eos: int) -> None:
        self._spec = model
        self._proof = proof
        self._eos = eos
        self._model: LlamaForCausalLM | None = None

    def load(self, weights_path: Path) -> None:
        model = models.build(self._spec)
        tensors = weights.load(weights_path, models.shapes_of(model))
        self._model = None  # two versions may not fit; a bad file was refused above
        self._model = models.frozen(model, tensors)

    @property
    def model(self) -> LlamaForCausalLM:
        """The loaded model. Raises BadConfig before the first load."""
        if self._model is None:
            raise BadConfig("no policy version is loaded")
        return self._model

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        max_new_tokens: int,
        temperature: float,
    ) -> list[Completion]:
        """See Engine. Raises BadConfig if a prompt leaves no room for max_new_tokens."""
        room = self.model.config.max_position_embeddings - max_new_tokens
        if max(map(len, prompts)) > room:
            raise BadConfig(f"a prompt of more than {room} tokens does not fit the model")
        by_length: dict[int, list[int]] = defaultdict(list)
        for index, prompt in enumerate(prompts):
            by_length[len(prompt)].append(index)
        steps: list[_Step] = []
        for indices in self._parts(by_length.values()):
            ids = torch.tensor([list(prompts[i]) for i in indices])
            own = np.array(indices)
            own_seeds = np.array([seeds[i] for i in indices], np.uint64)
            steps += self._decode(ids, own, own_seeds, max_new_tokens, temperature)
        return self._completions(steps)

    def _parts(self, groups: Iterable[list[int]]) -> Iterator[list[int]]:
        """The groups, cut to at most rows_max sequences."""
        for group in groups:
            rows = self.rows_max or len(group)
            yield from (group[at : at + rows] for at in range(0, len(group), rows))

    def _decode(
        self,
        ids: torch.Tensor,  # i64 [B, P]
        owners: NDArray[np.int64],
        seeds: NDArray[np.uint64],
        max_new_tokens: int,
        temperature: float,
    ) -> Iterator[_Step]:
        model, prompt_tokens = self.model, ids.shape[1]
        cache = DynamicCache(config=model.config)
        for position in range(prompt_tokens, prompt_tokens + max_new_tokens):
            out = model.model(input_ids=ids, cache=cache, use_cache=True)
            states = out.last_hidden_state[:, -1]  # [B, H]
            logits = model.lm_head(states).numpy()  # [B, V]
            positions = np.full(len(owners), position, np.uint32)
            tokens = sampling.choose(logits, seeds, positions, temperature)
            logprobs = processed_logprobs(logits, tokens, temperature)
            yield owners, tokens, logprobs, models.as_bf16(states)
            going = np.flatnonzero(tokens != self._eos)
            if not len(going):
                return
            if len(going) < len(owners):
                owners, seeds, tokens = owners[going], seeds[going], tokens[going]
                cache.batch_select_indices(torch.from_numpy(going))
            ids = torch.from_numpy(tokens.astype(np.int64))[:, None]

    def _completions(self, steps: list[_Step]) -> list[Completion]:
        owners, tokens, logprobs, rows = (np.concatenate(part) for part in zip(*steps, strict=True))
        order = np.argsort(owners, kind="stable")  # by sequence; steps stay in order
        ends = np.cumsum(np.bincount(owners))
        parts = [slice(end - n, end) for end, n in zip(ends, np.bincount(owners), strict=True)]
        tokens, logprobs, rows = tokens[order], logprobs[order], rows[order]
        proofs = self._proofs([rows[part] for part in parts])
        return [
            Completion(tokens[part], logprobs[part], own, bool(tokens[part][-1] == self._eos))
            for part, own in zip(parts, proofs, strict=True)
        ]

    def _proofs(self, rows: list[NDArray[np.uint16]]) -> list[tuple[bytes, ...]]:
        """Proofs of each sequence's rows [n, H]; all chunks are built in one call."""
        chunks = [chunks_of(own, self._proof.chunk_tokens) for own in rows]
        built = iter(native.toploc_build([c for own in chunks for c in own], self._proof.k))
        return [tuple(next(built) for _ in own) for own in chunks]

    @torch.inference_mode()
    def prefill(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> Iterator[tuple[int, Prefill]]:
        """See Engine. Yields the longest sequences first."""
        lengths = [len(p) + len(c) - 1 for p, c in zip(prompts, completions, strict=True)]
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        while order:
            width = lengths[order[0]]
            rows = max(1, PREFILL_TOKENS // width)
            part, order = order[:rows], order[rows:]
            ids = torch.zeros(len(part), width, dtype=torch.int64)
            for row, i in enumerate(part):
                # The last token samples nothing.
                ids[row, : lengths[i]] = torch.tensor([*prompts[i], *completions[i]][:-1])
            states = self.model.model(input_ids=ids, use_cache=False).last_hidden_state
            for row, i in enumerate(part):
                sampled = states[row, len(prompts[i]) - 1 : lengths[i]]  # [n, H]
                yield i, Prefill(self.model.lm_head(sampled).numpy(), models.as_bf16(sampled))


def chunks_of(rows: NDArray[np.uint16], chunk_tokens: int) -> list[NDArray[np.uint16]]:
    """Rows [n, H] in groups of chunk_tokens, the last one short."""
    return [rows[at : at + chunk_tokens] for at in range(0, len(rows), chunk_tokens)]
