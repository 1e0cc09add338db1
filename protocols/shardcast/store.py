"""PayloadStore: payload files by Merkle root, complete or in the making. Blocking: use in threads
(but `have` and `path`, which only look into memory).

`<root>-<size>-<leaf size>` is a complete, immutable file; with `.part` one in the making,
preallocated; with `.paths` the sidecar of either. A leaf is verified before it is written, and
nothing is synced until the
payload is complete: what was on disk before a crash is verified again, leaf by leaf, when the
payload is next opened. `finish` syncs, then renames; so a file under its final name is whole.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from primed.protocols.limits import LARGE_LEAF_BYTES, SMALL_LEAF_BYTES, SMALL_PAYLOAD_BYTES
from primed.protocols.shardcast import sidecar
from primed.protocols.shardcast.bitmap import Bitmap
from primed.protocols.shardcast.reader import LeafReader, leaf_size
from primed.verify import merkle
from primed.verify.statements import Payload


def leaf_bytes_for(size_bytes: int) -> int:
    """64 KiB below 16 MiB, else 256 KiB."""
    return SMALL_LEAF_BYTES if size_bytes < SMALL_PAYLOAD_BYTES else LARGE_LEAF_BYTES


def fits(payload: Payload, index: int, leaf: bytes | memoryview, path: Sequence[bytes]) -> bool:
    """Whether these bytes are leaf `index` of the payload."""
    if not 0 <= index < payload.leaves or len(leaf) != leaf_size(payload, index):
        return False
    return merkle.is_in_tree(payload.root, merkle.leaf_hash(leaf), index, payload.leaves, path)


class _Held:
    """A payload of which at least something is here."""

    def __init__(self, have: Bitmap, complete: bool) -> None:
        self.have = have
        self.complete = complete


class PayloadStore:
    def __init__(self, folder: Path) -> None:
        """Opens what is there: complete payloads at once, partial ones when they are asked for."""
        self._folder = folder
        self._lock = threading.Lock()
        self.gained_bytes = 0  # of leaves that were not here before, since the start
        self._held: dict[Payload, _Held] = {}
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in folder.glob("*.tmp"):
            path.unlink()
        for path in folder.glob("*.paths"):
            payload = _named(path.stem)
            if payload and self._final(payload).exists():
                self._held[payload] = _Held(Bitmap.full(payload.leaves), True)

    def import_file(self, source: Path) -> Payload:
        """Take in a complete file (linked if possible, else copied; it must not change any
        more)."""
        size_bytes = source.stat().st_size
        if not size_bytes:
            raise ValueError(f"{source.name} is empty")
        leaf_bytes = leaf_bytes_for(size_bytes)
        hashes = list(_leaf_hashes(source, leaf_bytes))
        payload = Payload(merkle.root_of(hashes), size_bytes, leaf_bytes)
        with self._lock:
            if self.path(payload) is None:
                self._place(source, payload, hashes)
        return payload

    def open(self, payload: Payload) -> Bitmap:
        """Begin or go on with a payload; which leaves are here, verified. Raises OSError (space).
        One caller at a time for one payload."""
        held = self._held.get(payload)
        if held is None:
            held = _Held(self._open_partial(payload), False)
            with self._lock:
                held = self._held.setdefault(payload, held)
        return Bitmap(payload.leaves, bytes(held.have))

    def write_leaf(
        self, payload: Payload, index: int, leaf: bytes | memoryview, path: Sequence[bytes]
    ) -> bool:
        """Verify and keep a leaf of an opened payload; False if it is not a leaf of it."""
        if not fits(payload, index, leaf, path):
            return False
        with self._lock:
            held = self._held.get(payload)
            if held is not None and index not in held.have:
                _write_at(self._part(payload), index * payload.leaf_bytes, leaf)
                slot = sidecar.slot(payload, list(path))
                _write_at(self._paths(payload), sidecar.slot_at(payload, index), slot)
                held.have.add(index)
                self.gained_bytes += len(leaf)
        return True  # also when it was deleted meanwhile: a good leaf that nobody wants

    def finish(self, payload: Payload) -> Path:
        """The complete file, once all leaves are here. Synced before it gets its name. Raises
        FileNotFoundError for a payload that was deleted meanwhile."""
        with self._lock:
            held, final = self._held.get(payload), self._final(payload)
            if held is None:
                raise FileNotFoundError("the payload was deleted")
            if not held.complete:
                if not held.have.is_full:
                    raise ValueError(f"{held.have.count - held.have.total} leaves are missing")
                _sync(self._paths(payload))
                _sync(self._part(payload))
                self._part(payload).rename(final)
                _sync(self._folder)
                held.complete = True
            return final

    def path(self, payload: Payload) -> Path | None:
        """The complete file, if it is here."""
        held = self._held.get(payload)
        return self._final(payload) if held is not None and held.complete else None

    def have(self, payload: Payload) -> Bitmap | None:
        """The leaves that are here, live: do not change it. None for an unknown payload."""
        held = self._held.get(payload)
        return held.have if held else None

    def read_leaf(self, payload: Payload, index: int) -> tuple[bytes, list[bytes]] | None:
        """(leaf, path), or None if it is not here."""
        with self._lock:
            held = self._held.get(payload)
            if held is None or index not in held.have:
                return None
            data = self._final(payload) if held.complete else self._part(payload)
            leaf = _read_at(data, index * payload.leaf_bytes, leaf_size(payload, index))
            with self._paths(payload).open("rb") as file:
                path = sidecar.read_slot(file.fileno(), payload, index)
        return None if path is None else (leaf, path)

    def reader(self, payload: Payload) -> LeafReader | None:
        """For many leaves of one payload. The caller closes it; deletion does not disturb it."""
        with self._lock:
            held = self._held.get(payload)
            if held is None:
                return None
            data = self._final(payload) if held.complete else self._part(payload)
            return LeafReader(payload, held.have, data, self._paths(payload))

    def payloads(self) -> list[Payload]:
        """All that are complete, or were opened since the start."""
        return list(self._held)

    def delete(self, payload: Payload) -> None:
        """Forget a payload. The file goes first: a sidecar alone is nothing."""
        with self._lock:
            self._held.pop(payload, None)
            for path in (self._final(payload), self._part(payload), self._paths(payload)):
                path.unlink(missing_ok=True)

    def _place(self, source: Path, payload: Payload, hashes: list[bytes]) -> None:
        paths, copy = self._named(payload, ".paths.tmp"), self._named(payload, ".copy.tmp")
        sidecar.write_all_slots(paths, payload, hashes)
        try:
            os.link(source, copy)
        except OSError:
            shutil.copyfile(source, copy)
        _sync(copy)
        self._part(payload).unlink(missing_ok=True)
        paths.rename(self._paths(payload))
        copy.rename(self._final(payload))
        _sync(self._folder)
        self._held[payload] = _Held(Bitmap.full(payload.leaves), True)

    def _open_partial(self, payload: Payload) -> Bitmap:
        part, paths = self._part(payload), self._paths(payload)
        if part.exists() and paths.exists() and part.stat().st_size == payload.size_bytes:
            return _verified(payload, part, paths)
        part.unlink(missing_ok=True)
        paths.write_bytes(b"")
        with part.open("wb") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, payload.size_bytes)
            except OSError:
                for path in (part, paths):  # else what room there is stays taken
                    path.unlink()
                raise
        return Bitmap(payload.leaves)

    def _final(self, payload: Payload) -> Path:
        return self._named(payload, "")

    def _part(self, payload: Payload) -> Path:
        return self._named(payload, ".part")

    def _paths(self, payload: Payload) -> Path:
        return self._named(payload, ".paths")

    def _named(self, payload: Payload, ending: str) -> Path:
        name = f"{payload.root.hex()}-{payload.size_bytes}-{payload.leaf_bytes}{ending}"
        return self._folder / name


def _named(stem: str) -> Payload | None:
    """The payload of a file name, or None if the name is no payload's."""
    try:
        root, size_bytes, leaf_bytes = stem.split("-")
        return msgspec.convert((bytes.fromhex(root), int(size_bytes), int(leaf_bytes)), Payload)
    except (ValueError, msgspec.ValidationError):
        return None


def _leaf_hashes(source: Path, leaf_bytes: int) -> Iterator[bytes]:
    with source.open("rb") as file:
        while leaf := file.read(leaf_bytes):
            yield merkle.leaf_hash(leaf)


def _verified(payload: Payload, part: Path, paths: Path) -> Bitmap:
    """Which leaves of a partial payload are really there."""
    have = Bitmap(payload.leaves)
    with part.open("rb") as data, paths.open("rb") as slots:
        for index in range(payload.leaves):
            path = sidecar.read_slot(slots.fileno(), payload, index)
            if path is not None:
                at = index * payload.leaf_bytes
                leaf = os.pread(data.fileno(), leaf_size(payload, index), at)
                if fits(payload, index, leaf, path):
                    have.add(index)
    return have


def _write_at(path: Path, offset: int, data: bytes | memoryview) -> None:
    with path.open("r+b", buffering=0) as file:
        written = os.pwrite(file.fileno(), data, offset)
    if written != len(data):
        raise OSError(f"wrote {written} of {len(data)} bytes to {path.name}")


def _read_at(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        return os.pread(file.fileno(), size, offset)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
