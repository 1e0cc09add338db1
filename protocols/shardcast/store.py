"""PayloadStore: payload files by Merkle root, complete or in the making. Blocking: use in threads.

`<root>` is a complete, immutable file; `<root>.part` one in the making, preallocated; `<root>.paths`
the sidecar of either. A leaf is verified before it is written, and nothing is synced until the
payload is complete: what was on disk before a crash is verified again, leaf by leaf, when the
payload is next opened. `finish` syncs, then renames; so a file under its final name is whole.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from primed.protocols.limits import LARGE_LEAF_BYTES, SMALL_LEAF_BYTES, SMALL_PAYLOAD_BYTES
from primed.protocols.shardcast import sidecar
from primed.protocols.shardcast.bitmap import Bitmap
from primed.verify import merkle
from primed.verify.statements import Payload


def leaf_bytes_for(size_bytes: int) -> int:
    """64 KiB below 16 MiB, else 256 KiB."""
    return SMALL_LEAF_BYTES if size_bytes < SMALL_PAYLOAD_BYTES else LARGE_LEAF_BYTES


def leaf_size(payload: Payload, index: int) -> int:
    """Bytes of one leaf: the last may be short."""
    return min(payload.leaf_bytes, payload.size_bytes - index * payload.leaf_bytes)


def fits(payload: Payload, index: int, leaf: bytes, path: Sequence[bytes]) -> bool:
    """Whether these bytes are leaf `index` of the payload."""
    if not 0 <= index < payload.leaves or len(leaf) != leaf_size(payload, index):
        return False
    return merkle.is_in_tree(payload.root, merkle.leaf_hash(leaf), index, payload.leaves, path)


class _Held:
    """A payload of which at least something is here."""

    def __init__(self, payload: Payload, have: Bitmap, complete: bool) -> None:
        self.payload = payload
        self.have = have
        self.complete = complete


class PayloadStore:
    def __init__(self, folder: Path) -> None:
        """Opens what is there: complete payloads at once, partial ones when they are asked for."""
        self._folder = folder
        self._lock = threading.RLock()
        self._held: dict[bytes, _Held] = {}
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in folder.glob("*.tmp"):
            path.unlink()
        for path in folder.glob("*.paths"):
            self._find_complete(bytes.fromhex(path.stem))

    def import_file(self, source: Path) -> Payload:
        """Take in a complete file (linked if possible, else copied; it must not change any more)."""
        size_bytes = source.stat().st_size
        if not size_bytes:
            raise ValueError(f"{source.name} is empty")
        leaf_bytes = leaf_bytes_for(size_bytes)
        hashes = list(_leaf_hashes(source, leaf_bytes))
        payload = Payload(merkle.root_of(hashes), size_bytes, leaf_bytes)
        with self._lock:
            if not self._is_complete(payload.root):
                self._place(source, payload, hashes)
        return payload

    def open(self, payload: Payload) -> Bitmap:
        """Begin or go on with a payload; which leaves are here, verified. Raises OSError (space)."""
        with self._lock:
            held = self._held.get(payload.root)
            if held is None or (held.payload != payload and not held.complete):
                held = self._held[payload.root] = self._open_partial(payload)
            return Bitmap(payload.leaves, bytes(held.have))

    def write_leaf(self, payload: Payload, index: int, leaf: bytes, path: Sequence[bytes]) -> bool:
        """Verify and keep a leaf of an opened payload; False if it is not a leaf of it."""
        if not fits(payload, index, leaf, path):
            return False
        with self._lock:
            held = self._held.get(payload.root)
            if held is None:
                return True  # deleted meanwhile: a good leaf that nobody wants
            if index not in held.have:
                _write_at(self._part(payload.root), index * payload.leaf_bytes, leaf)
                slot = sidecar.slot(payload, list(path))
                _write_at(self._paths(payload.root), sidecar.slot_at(payload, index), slot)
                held.have.add(index)
        return True

    def finish(self, payload: Payload) -> Path:
        """The complete file, once all leaves are here. Synced before it gets its name."""
        with self._lock:
            held, final = self._held[payload.root], self._final(payload.root)
            if not held.complete:
                if not held.have.is_full:
                    raise ValueError(f"{held.have.count - held.have.total} leaves are missing")
                _sync(self._paths(payload.root))
                _sync(self._part(payload.root))
                self._part(payload.root).rename(final)
                _sync(self._folder)
                held.complete = True
            return final

    def path(self, root: bytes) -> Path | None:
        """The complete file, if it is here."""
        with self._lock:
            return self._final(root) if self._is_complete(root) else None

    def have(self, root: bytes) -> bytes:
        """Bitmap of the leaves that are here; empty for an unknown payload."""
        with self._lock:
            held = self._held.get(root)
            return bytes(held.have) if held else b""

    def read_leaf(self, root: bytes, index: int) -> tuple[bytes, list[bytes]] | None:
        """(leaf, path), or None if it is not here."""
        with self._lock:
            held = self._held.get(root)
            if held is None or index not in held.have:
                return None
            payload = held.payload
            data = self._final(root) if held.complete else self._part(root)
            leaf = _read_at(data, index * payload.leaf_bytes, leaf_size(payload, index))
            with self._paths(root).open("rb") as file:
                path = sidecar.read_slot(file.fileno(), payload, index)
        return None if path is None else (leaf, path)

    def roots(self) -> list[bytes]:
        """All payloads that are complete, or opened since the start."""
        with self._lock:
            return list(self._held)

    def delete(self, root: bytes) -> None:
        """Forget a payload. The file goes first: a sidecar alone is nothing."""
        with self._lock:
            self._held.pop(root, None)
            for path in (self._final(root), self._part(root), self._paths(root)):
                path.unlink(missing_ok=True)

    def _find_complete(self, root: bytes) -> None:
        payload = sidecar.read_header(self._paths(root), root)
        final = self._final(root)
        if payload and final.exists() and final.stat().st_size == payload.size_bytes:
            self._held[root] = _Held(payload, Bitmap.full(payload.leaves), True)

    def _place(self, source: Path, payload: Payload, hashes: list[bytes]) -> None:
        root = payload.root
        sidecar.write_all_slots(self._temporary(root, "paths"), payload, hashes)
        copy = self._temporary(root, "copy")
        copy.unlink(missing_ok=True)
        try:
            os.link(source, copy)
        except OSError:
            shutil.copyfile(source, copy)
        _sync(copy)
        self._part(root).unlink(missing_ok=True)
        self._temporary(root, "paths").rename(self._paths(root))
        copy.rename(self._final(root))
        _sync(self._folder)
        self._held[root] = _Held(payload, Bitmap.full(payload.leaves), True)

    def _open_partial(self, payload: Payload) -> _Held:
        part, paths = self._part(payload.root), self._paths(payload.root)
        usable = part.exists() and paths.exists() and part.stat().st_size == payload.size_bytes
        if usable and sidecar.read_header(paths, payload.root) == payload:
            return _Held(payload, _verified(payload, part, paths), False)
        part.unlink(missing_ok=True)
        paths.write_bytes(sidecar.header(payload))
        with part.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, payload.size_bytes)
        return _Held(payload, Bitmap(payload.leaves), False)

    def _is_complete(self, root: bytes) -> bool:
        held = self._held.get(root)
        return held is not None and held.complete

    def _final(self, root: bytes) -> Path:
        return self._folder / root.hex()

    def _part(self, root: bytes) -> Path:
        return self._folder / f"{root.hex()}.part"

    def _paths(self, root: bytes) -> Path:
        return self._folder / f"{root.hex()}.paths"

    def _temporary(self, root: bytes, what: str) -> Path:
        return self._folder / f"{root.hex()}.{what}.tmp"


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


def _write_at(path: Path, offset: int, data: bytes) -> None:
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
