"""Tensors in files: safetensors only, read through a memory map, written atomically and synced.

A weights file comes from peers, so its header is bounded, parsed as JSON and checked completely
before one byte of data is used (scenario 40): no pickle, no code, no gaps, no overlaps. numpy has
no bfloat16, so BF16 is uint16 here and everywhere above: this module imports no torch, and the
weights digest (docs/protocol.md, "Exact bytes") is computed from the mapped bytes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from primed.training.errors import BadInput
from primed.verify import merkle
from primed.verify.digests import joined, u64

HEADER_MAX_BYTES = 1024 * 1024
TENSORS_MAX = 20_000
DIMENSIONS_MAX = 8
LEAF_BYTES = 4 * 1024 * 1024

_DTYPES: dict[str, Any] = {"BF16": np.dtype("<u2"), "F32": np.dtype("<f4")}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_METADATA = "__metadata__"

Tensors = Mapping[str, NDArray[Any]]
Shapes = Mapping[str, tuple[int, ...]]


class BadWeights(BadInput):
    """The file is not the safetensors file it should be."""


def read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Tensors by name (read-only views of the mapped file) and the metadata.
    Raises BadWeights unless the header is bounded and covers the data exactly."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if size_bytes < 8 or header_bytes > min(HEADER_MAX_BYTES, size_bytes - 8):
            raise BadWeights(f"header of {header_bytes} bytes in a file of {size_bytes}")
        header = _parsed(file.read(header_bytes))
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise BadWeights("metadata is not a table of strings")
    if not 0 < len(header) <= TENSORS_MAX:
        raise BadWeights(f"{len(header)} tensors")
    start = 8 + header_bytes
    layout = sorted((_described(name, entry) for name, entry in header.items()), key=_by_offset)
    _check_is_gapless(layout, size_bytes - start)
    data = np.memmap(path, dtype=np.uint8, mode="r", offset=start)
    return {
        name: data[begin:end].view(dtype).reshape(shape)
        for name, dtype, shape, begin, end in layout
    }, metadata


_Described = tuple[str, Any, tuple[int, ...], int, int]  # name, dtype, shape, begin, end


def _by_offset(described: _Described) -> int:
    return described[3]


def _parsed(header: bytes) -> dict[str, Any]:
    try:
        table = json.loads(header, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise BadWeights(f"header is not JSON: {error}") from error
    if not isinstance(table, dict):
        raise BadWeights("header is not a table")
    return table


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise BadWeights("header repeats a name")
    return table


def _described(name: str, entry: object) -> _Described:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise BadWeights(f"{name!r:.80}: not a tensor description")
    dtype = _DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise BadWeights(f"{name!r:.80}: dtype {entry['dtype']!r:.20} is not one of {[*_DTYPES]}")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _is_naturals(shape) or len(shape) > DIMENSIONS_MAX or not _is_naturals(offsets):
        raise BadWeights(f"{name!r:.80}: bad shape or offsets")
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise BadWeights(f"{name!r:.80}: offsets do not fit the shape")
    return name, dtype, tuple(shape), offsets[0], offsets[1]


def _is_naturals(value: object) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**48 for n in value)


def _check_is_gapless(layout: list[_Described], data_bytes: int) -> None:
    at = 0
    for name, dtype, _, begin, end in layout:
        if begin != at or begin % dtype.itemsize:
            raise BadWeights(f"{name!r:.80}: begins at {begin}, not at {at}")
        at = end
    if at != data_bytes:
        raise BadWeights(f"tensors cover {at} of {data_bytes} bytes")


def load(path: Path, shapes: Shapes) -> dict[str, NDArray[np.uint16]]:
    """A policy's bf16 weights, exactly these names and shapes and all finite, sorted by name.
    Raises BadWeights."""
    tensors, _ = read(path)
    if set(tensors) != set(shapes):
        odd = sorted(set(tensors) ^ set(shapes))
        raise BadWeights(f"tensors differ from the model's: {odd[0]!r:.80} and {len(odd) - 1} more")
    for name, tensor in tensors.items():
        if tensor.dtype != _DTYPES["BF16"]:
            raise BadWeights(f"{name}: dtype is not bf16")
        if tensor.shape != shapes[name]:
            raise BadWeights(f"{name}: shape {tensor.shape}, the model has {shapes[name]}")
        if np.any((tensor & 0x7F80) == 0x7F80):
            raise BadWeights(f"{name}: holds a value that is not finite")
    return dict(sorted(tensors.items()))


def digest_of(tensors: Tensors) -> bytes:
    """Weights digest: Merkle root over the table (names, dtypes, shapes) and then, tensor by
    tensor in order of name, its raw little-endian bytes in leaves of 4 MiB."""
    names = sorted(tensors)
    table = [field for name in names for field in _table_row(name, tensors[name])]
    leaves = [merkle.leaf_hash(joined(table))]
    for name in names:
        leaves += merkle.leaf_hashes(bytes_of(tensors[name]), LEAF_BYTES)
    return merkle.root_of(leaves)


def digest_of_file(path: Path) -> bytes:
    """Weights digest of a file. Raises BadWeights."""
    return digest_of(read(path)[0])


def _table_row(name: str, tensor: NDArray[Any]) -> Iterator[bytes]:
    yield name.encode()
    yield _NAMES[tensor.dtype].encode()
    yield joined([u64(n) for n in tensor.shape])


def bytes_of(tensor: NDArray[Any]) -> memoryview:
    """A tensor's raw bytes, little-endian, without a copy if it is contiguous."""
    return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data


def write(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> None:
    """Write uint16 (bf16) and float32 tensors; equal arguments give equal bytes. Atomic: the file
    and its directory are synced before this returns."""
    layout = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}

    def fill(file: BinaryIO) -> None:
        file.write(header_of(layout, metadata))
        file.writelines(bytes_of(tensors[name]) for name in order_of(layout))

    write_atomically(path, fill)


Layout = Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]  # dtype and shape by name


def order_of(layout: Layout) -> list[str]:
    """Names in the order in which a file that we write holds them: wide types first, so that all
    are aligned; then by name."""
    return sorted(layout, key=lambda name: (-layout[name][0].itemsize, name))


def header_of(layout: Layout, metadata: Mapping[str, str] | None = None) -> bytes:
    """What comes before the tensors, in order_of the layout, in a file that we write."""
    header: dict[str, Any] = {_METADATA: dict(sorted(metadata.items()))} if metadata else {}
    at = 0
    for name in order_of(layout):
        dtype, shape = layout[name]
        end = at + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format asks for aligned data
    return len(text).to_bytes(8, "little") + text


def write_atomically(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Fill a new file beside `path`, sync it, move it into place, sync the directory."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
