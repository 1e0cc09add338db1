"""Delta files: tensors of two types, chunks across tensors, spans, files of foreign layout."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from primed.training import deltas, weights
from primed.training.deltas import BadDelta


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deltas, "CHUNK_WEIGHTS", 1000)


def bf16(draw: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.uint16]:
    return (draw.normal(size=shape).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def model(seed: int) -> dict[str, NDArray[Any]]:
    draw = np.random.default_rng(seed)
    return {
        "embed": bf16(draw, (70, 30)),
        "bias": bf16(draw, (13,)),
        "norm": draw.normal(size=(5, 3)).astype(np.float32),
        "out": bf16(draw, (400,)),
        "z": draw.normal(size=7).astype(np.float32),
    }


def stepped(tensors: dict[str, NDArray[Any]], seed: int) -> dict[str, NDArray[Any]]:
    draw = np.random.default_rng(seed)
    new: dict[str, NDArray[Any]] = {}
    for name, tensor in tensors.items():
        if tensor.dtype == np.uint16:
            change = (draw.random(tensor.shape) < 0.05) * draw.integers(1, 4, tensor.shape)
            new[name] = (tensor + change.astype(np.uint16)).astype(np.uint16)
        else:
            new[name] = tensor * np.float32(1.5)
    return new


def written(path: Path, tensors: dict[str, NDArray[Any]]) -> Path:
    weights.write(path, tensors)
    return path


def assert_carries(folder: Path, base: Path, new: Path) -> int:
    size = deltas.encode(base, new, folder / "delta")
    deltas.apply(base, folder / "delta", folder / "made", weights.digest_of_file(new))
    assert weights.digest_of_file(folder / "made") == weights.digest_of_file(new)
    return size


def test_chunks_go_across_tensors_and_other_types_go_raw(tmp_path: Path) -> None:
    old = model(1)
    base, new = written(tmp_path / "a", old), written(tmp_path / "b", stepped(old, 2))
    size = assert_carries(tmp_path, base, new)
    assert (tmp_path / "made").read_bytes() == new.read_bytes()
    raw_bytes = (15 + 7) * 4
    assert raw_bytes < size < raw_bytes + 0.3 * 2 * 2513


def test_a_span_is_one_delta_of_its_end_points(tmp_path: Path) -> None:
    """Scenario: a late node takes one merged delta instead of eight."""
    versions = [model(1)]
    for step in range(8):
        versions.append(stepped(versions[-1], 10 + step))
    files = [written(tmp_path / f"v{i}", version) for i, version in enumerate(versions)]
    chained = sum(assert_carries(tmp_path, files[i], files[i + 1]) for i in range(8))
    assert assert_carries(tmp_path, files[0], files[8]) < chained


def test_unrelated_weights_cost_no_more_than_the_weights(tmp_path: Path) -> None:
    base, new = written(tmp_path / "a", model(1)), written(tmp_path / "b", model(2))
    assert assert_carries(tmp_path, base, new) < new.stat().st_size


def test_equal_versions_cost_a_header(tmp_path: Path) -> None:
    base = written(tmp_path / "a", {"a": model(1)["embed"]})
    assert assert_carries(tmp_path, base, base) < 150


def test_the_layout_of_either_file_does_not_matter(tmp_path: Path) -> None:
    """A file of the library has its own order, and data at odd places."""
    old = model(1)
    as_torch = {name: torch.from_numpy(tensor) for name, tensor in old.items()}
    for name in ("embed", "bias", "out"):
        as_torch[name] = as_torch[name].view(torch.bfloat16)
    save_file(as_torch, tmp_path / "library")
    data = (tmp_path / "library").read_bytes()
    header_bytes = struct.unpack("<Q", data[:8])[0]
    shifted = struct.pack("<Q", header_bytes + 1) + data[8 : 8 + header_bytes] + b" "
    (tmp_path / "odd").write_bytes(shifted + data[8 + header_bytes :])
    new = written(tmp_path / "b", stepped(old, 2))
    assert_carries(tmp_path, tmp_path / "odd", new)
    assert_carries(tmp_path, new, tmp_path / "odd")


def test_other_tensors_are_refused(tmp_path: Path) -> None:
    old = model(1)
    base, new = written(tmp_path / "a", old), written(tmp_path / "b", old | {"more": old["bias"]})
    with pytest.raises(BadDelta, match="different tensors"):
        deltas.encode(base, new, tmp_path / "delta")
    deltas.encode(new, new, tmp_path / "delta")
    with pytest.raises(BadDelta, match="another size"):
        deltas.apply(base, tmp_path / "delta", tmp_path / "out", weights.digest_of_file(new))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("at", range(0, 400, 7))
def test_a_delta_cut_anywhere_is_refused_and_leaves_nothing(tmp_path: Path, at: int) -> None:
    old = model(1)
    base, new = written(tmp_path / "a", old), written(tmp_path / "b", stepped(old, 2))
    delta = tmp_path / "delta"
    deltas.encode(base, new, delta)
    delta.write_bytes(delta.read_bytes()[:at])
    with pytest.raises(BadDelta):
        deltas.apply(base, delta, tmp_path / "out", weights.digest_of_file(new))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "delta"]
