"""TOPLOC proofs, scores and noise on a CUDA device: bit by bit what the CPU makes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from primed import native
from primed.native import cuda_proofs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not cuda_proofs.is_built(), reason="built without -DPRIMED_CUDA=ON"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

CAP = 64
Rows = NDArray[np.uint16]


def on_device(array: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(array.copy()).cuda()


def stream() -> int:
    return int(torch.cuda.current_stream().cuda_stream)


def rows_of_kind(kind: str, n: int, hidden: int) -> Rows:
    draw = np.random.default_rng(n * hidden)
    if kind == "gauss":
        values = draw.standard_normal((n, hidden), np.float32)
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    if kind == "equal":
        return np.full((n, hidden), 0x3F80, np.uint16)
    if kind == "ties":
        return draw.choice(np.array([0, 0x8000, 1, 0x7F80, 0xFFFF, 0x7FC0], np.uint16), (n, hidden))
    rows = draw.integers(0, 1 << 16, (n, hidden), dtype=np.uint16)
    if kind == "collision" and rows.size > native.PRIME:
        rows.reshape(-1)[[0, native.PRIME]] = 0x7FFE, 0x7FFF
    return rows


def chunked(rows: Rows, chunk_rows: int) -> list[Rows]:
    return [rows[at : at + chunk_rows] for at in range(0, len(rows), chunk_rows)]


def built(rows: Rows, chunk_rows: int, k: int) -> list[bytes]:
    chunks = chunked(rows, chunk_rows)
    out = torch.zeros((len(chunks), 1 + k), dtype=torch.uint16, device="cuda")
    cuda_proofs.toploc_build(on_device(rows), chunk_rows, k, out, stream())
    return cuda_proofs.proofs_of(out.cpu().numpy(), [chunk.size for chunk in chunks])


@pytest.mark.parametrize("kind", ["gauss", "equal", "ties", "any", "collision"])
@pytest.mark.parametrize(
    ("n", "hidden", "chunk_rows"), [(1, 1, 32), (5, 3, 2), (70, 96, 32), (33, 5120, 32)]
)
@pytest.mark.parametrize("k", [1, 16, 128, 1000])
def test_proofs_are_alike(kind: str, n: int, hidden: int, chunk_rows: int, k: int) -> None:
    rows = rows_of_kind(kind, n, hidden)
    assert built(rows, chunk_rows, k) == native.toploc_build(chunked(rows, chunk_rows), k)


@pytest.mark.parametrize("kind", ["gauss", "equal", "ties", "any", "collision"])
@pytest.mark.parametrize("damage", [0.0, 0.3, 1.0])
def test_scores_of_honest_and_hostile_proofs_are_alike(kind: str, damage: float) -> None:
    rows, k, draw = rows_of_kind(kind, 67, 3000), 128, np.random.default_rng(5)
    chunks = chunked(rows, 32)
    proofs = native.toploc_build(chunks, k)
    for c, proof in enumerate(proofs):
        if draw.random() < damage:
            proofs[c] = bytes(draw.integers(0, 256, len(proof), dtype=np.uint8))
    own = rows + draw.integers(0, 4, rows.shape, dtype=np.uint16)
    others = [proofs[1], b"", proofs[0]]
    sizes = [chunk.size for chunk in chunks]
    out = torch.zeros((len(chunks), 8), dtype=torch.int64, device="cuda")
    packed = [on_device(cuda_proofs.rows_of(some, sizes, k)) for some in (proofs, others)]
    cuda_proofs.toploc_score(on_device(own), 32, packed[0], packed[1], k, CAP, out, stream())
    expected = native.toploc_score(chunked(own, 32), proofs, k, CAP, others)
    assert np.array_equal(out.cpu().numpy(), expected)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0, float("inf")])
@pytest.mark.parametrize("vocabulary", [1, 26, 1025, 150_000])
def test_noise_and_choices_are_alike(temperature: float, vocabulary: int) -> None:
    draw = np.random.default_rng(vocabulary)
    logits = draw.normal(0, 3, (8, vocabulary)).astype(np.float32)
    logits[draw.random(logits.shape) < 0.1] = np.nan
    logits[1], logits[2], logits[3] = 1.0, -np.inf, np.nan
    logits[4, draw.integers(vocabulary)] = np.inf
    seeds = draw.integers(0, 1 << 64, 8, dtype=np.uint64)
    positions = draw.integers(0, 1 << 32, 8, dtype=np.uint32)
    noise = torch.zeros((8, vocabulary), device="cuda")
    cuda_proofs.gumbel(on_device(seeds), on_device(positions), noise, stream())
    assert noise.cpu().numpy().tobytes() == native.gumbel(seeds, positions, vocabulary).tobytes()
    tokens, scores = torch.zeros(8, dtype=torch.uint32).cuda(), torch.zeros(8).cuda()
    arrays = on_device(logits), on_device(seeds), on_device(positions)
    cuda_proofs.gumbel_choose(*arrays, temperature, tokens, scores, stream())
    expected = native.gumbel_choose(logits, seeds, positions, temperature)
    assert np.array_equal(tokens.cpu().numpy(), expected[0])
    assert np.array_equal(scores.cpu().numpy(), expected[1])


def test_arrays_of_another_shape_are_refused() -> None:
    rows = on_device(rows_of_kind("any", 4, 8))
    out = torch.zeros((2, 4), dtype=torch.uint16, device="cuda")
    for chunk_rows, k in ((0, 3), (2, 0), (2, 4), (1, 3), (2, 1025)):
        with pytest.raises(ValueError, match=r"."):
            cuda_proofs.toploc_build(rows, chunk_rows, k, out, stream())
