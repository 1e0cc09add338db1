"""BatchStore: batch files by content digest, with quotas for each worker. Blocking: use in threads
(but the questions, which only look into memory).

A batch is `<digest>`. Who had it stored has a header, `<worker>-<counter>.meta`: several may name
the same bytes, which go with the last that does. File and header are synced before `keep` returns,
hence before a receipt is signed. `<digest>` without a header is one that we fetched for ourselves.
A crash leaves `.tmp` files, which are removed at the next start.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import Lock

from primed.p2p.errors import MID, RemoteError
from primed.protocols.framing import decode, encode
from primed.protocols.limits import (
    BATCH_BYTES_PER_WORKER,
    BATCH_BYTES_TOTAL,
    BATCHES_PER_WORKER,
    BATCHES_TOTAL,
)
from primed.protocols.rollouts.messages import BatchHeader, headers
from primed.verify.digests import DIGEST_BYTES, file_digest

Slot = tuple[bytes, int]  # worker, counter


class BatchStore:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[Slot, BatchHeader] = {}
        self._slots: dict[bytes, set[Slot]] = {}  # batch -> whose headers name it
        self._fetched: set[bytes] = set()
        self._committed: set[Slot] = set()
        self._temporary = count()
        self._lock = Lock()  # who names a batch and whether its file is there change together
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._open()

    # ---- questions (memory only)

    def is_held_for(self, header: BatchHeader) -> bool:
        return self._held.get(_slot(header)) == header

    def path(self, batch: bytes) -> Path | None:
        """The file of a batch that is here, held or fetched."""
        return self._file(batch) if self._is_here(batch) else None

    def why_no_room(self, header: BatchHeader) -> str:
        """ "" if quotas allow this batch, else which does not."""
        replaced = _slot(header)
        others = [held for slot, held in self._held.items() if slot != replaced]
        own = [held.size_bytes for held in others if held.worker == header.worker]
        if len(own) >= BATCHES_PER_WORKER or sum(own) + header.size_bytes > BATCH_BYTES_PER_WORKER:
            return "this worker's share of the store is full"
        total_bytes = sum(held.size_bytes for held in others)
        if len(others) >= BATCHES_TOTAL or total_bytes + header.size_bytes > BATCH_BYTES_TOTAL:
            return "the store is full"
        return ""

    def is_committed(self, worker: bytes, counter: int) -> bool:
        """Whether the batch under this counter was committed to: it is not replaced any more."""
        return (worker, counter) in self._committed

    def commit(self, worker: bytes, counter: int, batch: bytes) -> None:
        if (worker, counter) in self._slots.get(batch, ()):
            self._committed.add((worker, counter))

    # ---- work (disk)

    @contextmanager
    def arriving(self) -> Iterator[Path]:
        """A new path for bytes that arrive. What was not kept by the end is removed."""
        path = self._folder / f"{next(self._temporary)}.tmp"
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def keep(self, arrived: Path, header: BatchHeader) -> None:
        """Take in synced bytes under their header, instead of an earlier batch of the counter.
        Raises RemoteError if they are not what the header says."""
        self._verify(arrived, header.batch, header.size_bytes, header.worker)
        slot = _slot(header)
        with self._lock, self.arriving() as meta:
            replaced = self._held.get(slot, header)
            try:
                meta.write_bytes(encode(header))
                _sync(meta)
                arrived.rename(self._file(header.batch))
                meta.rename(self._meta(slot))
                _sync(self._folder)
                self._note(header)
            finally:
                self._drop_unused(header.batch)
                self._drop_unused(replaced.batch)

    def keep_fetched(self, arrived: Path, batch: bytes, size_bytes: int, holder: bytes) -> Path:
        """Take in synced bytes that we asked for. Raises RemoteError naming the holder."""
        self._verify(arrived, batch, size_bytes, holder)
        final = self._file(batch)
        with self._lock:
            arrived.rename(final)
            _sync(self._folder)
            self._fetched.add(batch)
        return final

    def delete(self, worker: bytes, counter: int, batch: bytes, *, fetched: bool) -> None:
        """Forget a worker's batch, and if `fetched` that we fetched those bytes. The header goes
        first: a file alone is merely fetched."""
        slot = (worker, counter)
        with self._lock:
            if slot in self._slots.get(batch, ()):
                self._meta(slot).unlink(missing_ok=True)
                self._forget(slot)
                self._committed.discard(slot)
            if fetched:
                self._fetched.discard(batch)
            self._drop_unused(batch)

    def _open(self) -> None:
        for path in self._folder.iterdir():
            if path.suffix == ".tmp":
                path.unlink()
        for path in list(self._folder.glob("*.meta")):
            self._open_held(path)
        for path in self._folder.iterdir():
            if not path.suffix and len(path.name) == 2 * DIGEST_BYTES:
                batch = bytes.fromhex(path.name)
                if batch not in self._slots:
                    self._fetched.add(batch)

    def _open_held(self, meta: Path) -> None:
        try:
            header = decode(headers, meta.read_bytes())
        except RemoteError:
            meta.unlink()
            return
        file = self._file(header.batch)
        if file.exists() and file.stat().st_size == header.size_bytes:
            meta.rename(self._meta(_slot(header)))  # older releases called it by the batch
            self._note(header)
        else:
            meta.unlink()

    def _note(self, header: BatchHeader) -> None:
        slot = _slot(header)
        self._forget(slot)
        self._held[slot] = header
        self._slots.setdefault(header.batch, set()).add(slot)

    def _forget(self, slot: Slot) -> None:
        header = self._held.pop(slot, None)
        if header is not None:
            self._slots[header.batch].discard(slot)
            if not self._slots[header.batch]:
                del self._slots[header.batch]

    def _drop_unused(self, batch: bytes) -> None:
        if not self._is_here(batch):
            self._file(batch).unlink(missing_ok=True)

    def _is_here(self, batch: bytes) -> bool:
        return batch in self._slots or batch in self._fetched

    def _verify(self, arrived: Path, batch: bytes, size_bytes: int, sender: bytes) -> None:
        if arrived.stat().st_size != size_bytes or file_digest(arrived) != batch:
            reason = "the bytes are not the batch they were said to be"
            raise RemoteError(reason, peer=sender, penalty=MID)

    def _file(self, batch: bytes) -> Path:
        return self._folder / batch.hex()

    def _meta(self, slot: Slot) -> Path:
        worker, counter = slot
        return self._folder / f"{worker.hex()}-{counter}.meta"


def _slot(header: BatchHeader) -> Slot:
    return header.worker, header.counter


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
