"""Weights files and deltas: exact, and hostile bytes give a typed error (scenario 40)."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from primed.training import deltas, models, weights
from primed.training.deltas import BadDelta
from primed.training.errors import BadConfig
from primed.training.weights import BadWeights
from primed.verify.digests import joined, u64
from primed.verify.merkle import leaf_hash, root_of
from primed.verify.runspec import ModelSpec

SHAPES = {"a": (3, 5), "b": (7,)}


def some_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    made = {name: torch.tensor(draw.normal(size=shape)) for name, shape in SHAPES.items()}
    return {name: models.as_bf16(tensor) for name, tensor in made.items()}


def test_a_written_file_is_read_back_and_by_the_library_too(tmp_path: Path) -> None:
    tensors, path = some_tensors(), tmp_path / "w"
    weights.write(path, tensors, {"step": "3"})
    read, about = weights.read(path)
    assert about == {"step": "3"}
    with safe_open(path, "pt") as file:
        for name, tensor in tensors.items():
            assert np.array_equal(read[name], tensor)
            assert np.array_equal(models.as_bf16(file.get_tensor(name)), tensor)
    assert [entry.name for entry in tmp_path.iterdir()] == ["w"], "no partial file stays"


def test_a_file_of_the_library_is_read(tmp_path: Path) -> None:
    save_file({"b": torch.ones(7).bfloat16(), "a": torch.zeros(3, 5).bfloat16()}, tmp_path / "w")
    assert np.all(weights.load(tmp_path / "w", SHAPES)["b"] == 0x3F80)


def test_digest_is_the_documented_tree() -> None:
    tensors = some_tensors()
    table = [b"a", b"BF16", joined([u64(3), u64(5)]), b"b", b"BF16", joined([u64(7)])]
    leaves = [leaf_hash(joined(table))]
    leaves += [leaf_hash(tensors[name].tobytes()) for name in ("a", "b")]
    assert weights.digest_of(tensors) == root_of(leaves)


def test_digest_cuts_large_tensors_into_leaves_and_binds_shapes() -> None:
    large = np.arange(weights.LEAF_BYTES // 2 + 1, dtype=np.uint32).astype(np.uint16)
    bytes_ = large.tobytes()
    table = [b"x", b"BF16", joined([u64(large.size)])]
    leaves = [joined(table), bytes_[: weights.LEAF_BYTES], bytes_[weights.LEAF_BYTES :]]
    assert weights.digest_of({"x": large}) == root_of([leaf_hash(leaf) for leaf in leaves])
    assert weights.digest_of({"x": large[None]}) != weights.digest_of({"x": large})


def test_bf16_rounds_to_nearest_even() -> None:
    bits = torch.tensor([0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF], dtype=torch.int32)
    rounded = models.as_bf16(bits.view(torch.float32))
    assert rounded.tolist() == [0x3F80, 0x3F82, 0x3F81, 0x3F80]


def raw_file(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(begin: int, end: int, shape: list[int], dtype: str = "BF16") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


class Boom:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("code of the file was run",))


ONE = b'{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}'
HOSTILE: dict[str, tuple[object, bytes, int | None]] = {
    "pickle payload": (pickle.dumps(Boom()), b"", None),
    "oversized header": (b"{}", b"", 1 << 40),
    "header over the cap": (b" " * (weights.HEADER_MAX_BYTES + 1), b"", None),
    "header longer than the file": (b"{}", b"", 3),
    "empty": (b"{}", b"", None),
    "a list": ([], b"", None),
    "deep": (b"[" * 100_000, b"", None),
    "repeated name": (b'{"a":%s,"a":%s}' % (ONE, ONE), b"xx", None),
    "pickled dtype": ({"a": entry(0, 2, [1], "PKL")}, b"xx", None),
    "dtype is a list": ({"a": entry(0, 2, [1]) | {"dtype": ["BF16"]}}, b"xx", None),
    "overlap": ({"a": entry(0, 4, [2]), "b": entry(2, 6, [2])}, b"x" * 6, None),
    "hole": ({"a": entry(0, 4, [2]), "b": entry(6, 8, [1])}, b"x" * 8, None),
    "beyond the end": ({"a": entry(0, 4, [2])}, b"xx", None),
    "bytes left over": ({"a": entry(0, 2, [1])}, b"xxx", None),
    "negative": ({"a": entry(-2, 0, [1])}, b"xx", None),
    "shape does not fit": ({"a": entry(0, 4, [3])}, b"xxxx", None),
    "huge shape": ({"a": entry(0, 0, [1 << 62, 1 << 62, 0])}, b"", None),
    "boolean shape": ({"a": entry(0, 2, [True])}, b"xx", None),
    "metadata": ({"__metadata__": [1], "a": entry(0, 2, [1])}, b"xx", None),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_weights_files_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadWeights):
        weights.read(raw_file(tmp_path / "w", *HOSTILE[name]))


def test_weights_must_be_the_models(tmp_path: Path) -> None:
    path, good = tmp_path / "w", some_tensors()
    f32 = {name: tensor.astype(np.float32) for name, tensor in good.items()}
    infinite = good | {"b": np.full(7, 0x7F80, np.uint16)}
    for bad in (
        f32,
        good | {"a": good["a"].T.copy()},
        good | {"c": good["b"]},
        {"a": good["a"]},
        infinite,
    ):
        weights.write(path, bad)
        with pytest.raises(BadWeights):
            weights.load(path, SHAPES)
    weights.write(path, good)
    assert [*weights.load(path, SHAPES)] == ["a", "b"]


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=300), length=st.integers(0, 400))
def test_any_bytes_give_tensors_or_bad_weights(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, length: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(struct.pack("<Q", length) + data)
    with pytest.raises(BadWeights):
        weights.read(path)


MODEL: dict[str, int | float | bool] = {
    "vocab_size": 26,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
}


@pytest.mark.parametrize(
    "change",
    [
        {"auto_map": 1},
        {"attn_implementation": 1},
        {"hidden_size": 1 << 30},
        {"hidden_size": 16.0},
        {"num_hidden_layers": True},
        {"num_attention_heads": 3},
        {"num_key_value_heads": 512},
        {"head_dim": 7},
        {"pad_token_id": 26},
        {"rms_norm_eps": 0.5},
        {"vocab_size": 1 << 20, "num_hidden_layers": 256, "hidden_size": 1 << 15},
    ],
)
def test_a_run_cannot_set_what_is_not_allowed(change: dict[str, int | float | bool]) -> None:
    spec = ModelSpec(architecture="llama", config=MODEL | change, tokenizer="t", weights=bytes(32))
    with pytest.raises(BadConfig):
        models.build(spec)


def test_tied_tensors_are_published_once() -> None:
    for tied, names in ((True, 0), (False, 1)):
        config = MODEL | {"tie_word_embeddings": tied}
        spec = ModelSpec(architecture="llama", config=config, tokenizer="t", weights=bytes(32))
        model = models.initialise(spec, 1)
        policy = models.policy_of(model)
        assert sum(name == "lm_head.weight" for name in policy) == names
        other = models.build(spec)
        models.fill(other, policy)
        assert weights.digest_of(models.policy_of(other)) == weights.digest_of(policy)
        assert (other.lm_head.weight is other.model.embed_tokens.weight) == tied


# ---- deltas --------------------------------------------------------------------------------


def write(path: Path, bits: np.ndarray) -> Path:
    weights.write(path, {"a": bits.astype(np.uint16), "b": bits[:3].astype(np.uint16)})
    return path


def round_trip(folder: Path, old: np.ndarray, new: np.ndarray) -> int:
    base, after, delta, out = (folder / n for n in ("base", "after", "delta", "out"))
    write(base, old)
    size = deltas.encode(base, write(after, new), delta)
    assert size == delta.stat().st_size
    deltas.apply(base, delta, out, weights.digest_of_file(after))
    assert out.read_bytes() == after.read_bytes()
    return size


@settings(max_examples=60, deadline=None)
@given(data=st.data(), length=st.integers(3, 700), share=st.sampled_from([0.0, 0.02, 0.2, 0.9]))
def test_deltas_are_lossless_for_every_bit_pattern(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, length: int, share: float
) -> None:
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    old = draw.integers(0, 1 << 16, length, dtype=np.uint16)
    new = np.where(draw.random(length) < share, draw.integers(0, 1 << 16, length), old)
    round_trip(tmp_path_factory.mktemp("delta"), old, new)


def test_deltas_keep_nan_infinity_and_both_zeros(tmp_path: Path) -> None:
    special = np.array([0, 0x8000, 0x7F80, 0xFF80, 0x7FC1, 0xFFFF, 1, 0x8001], np.uint16)
    round_trip(tmp_path, np.tile(special, 8), np.repeat(special, 8))


def test_a_small_step_is_small_and_spans_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deltas, "CHUNK_WEIGHTS", 4096)
    draw = np.random.default_rng(1)
    old = models.as_bf16(torch.tensor(draw.normal(size=50_000)))
    new = (old + (draw.random(50_000) < 0.01)).astype(np.uint16)
    assert round_trip(tmp_path, old, new) < 0.03 * 2 * len(old)


def delta_files(folder: Path) -> tuple[Path, Path, bytes]:
    old, new = np.arange(600, dtype=np.uint16), np.arange(600, dtype=np.uint16)
    new[::40] += 1
    base, after, delta = write(folder / "base", old), write(folder / "after", new), folder / "delta"
    deltas.encode(base, after, delta)
    return base, delta, weights.digest_of_file(after)


def test_a_delta_is_refused_on_another_base_or_for_another_result(tmp_path: Path) -> None:
    base, delta, wanted = delta_files(tmp_path)
    other, out = write(tmp_path / "other", np.arange(1, 601)), tmp_path / "out"
    with pytest.raises(BadDelta, match="another version"):
        deltas.apply(other, delta, out, wanted)
    with pytest.raises(BadDelta, match="another version"):
        deltas.apply(base, delta, out, bytes(32))
    assert not out.exists()


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.integers(0, 3))
def test_damaged_deltas_are_refused_and_leave_nothing(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: int, cut: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged"
    if not folder.exists():
        folder.mkdir()
        delta_files(folder)
    base, delta = folder / "base", folder / "delta"
    wanted = weights.digest_of_file(folder / "after")
    good = delta.read_bytes()
    bad = bytearray(good)
    bad[at % len(bad)] = value
    bad = bad[: len(bad) - cut]
    out, changed = folder / "out", folder / "changed"
    changed.write_bytes(bad)
    if bytes(bad) == good:
        return
    try:
        deltas.apply(base, changed, out, wanted)
    except BadDelta:
        assert not out.exists()
    else:  # a byte that says nothing, such as one in a checksum-less zstd header
        assert out.read_bytes() == (folder / "after").read_bytes()
        out.unlink()


def test_a_delta_that_unpacks_to_gigabytes_is_refused_before_it_does(tmp_path: Path) -> None:
    import zstandard

    base, delta, wanted = delta_files(tmp_path)
    bomb = bytes([1]) + zstandard.ZstdCompressor(level=19).compress(bytes(1 << 28))
    header_bytes = 4 + int.from_bytes(delta.read_bytes()[:4], "big")
    length = struct.pack(">I", len(bomb))
    delta.write_bytes(delta.read_bytes()[:header_bytes] + length + bomb)
    with pytest.raises(BadDelta, match="a frame states|than it can be"):
        deltas.apply(base, delta, tmp_path / "out", wanted)
