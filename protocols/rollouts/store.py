"""BatchStore: batch files by content digest, with quotas for each worker. Blocking: use in threads
(but the questions, which only look into memory).

A batch is `<digest>` with `<digest>.meta`, its header; both are synced before `keep` returns, hence
before a receipt is signed. `<digest>` without a header is one that we fetched for ourselves. A
crash leaves `.tmp` files, which are removed at the next start.
"""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

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


class BatchStore:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[bytes, BatchHeader] = {}
        self._by_counter: dict[tuple[bytes, int], bytes] = {}
        self._fetched: set[bytes] = set()
        self._committed: set[bytes] = set()
        self._temporary = count()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._open()

    # ---- questions (memory only)

    def is_held_for(self, header: BatchHeader) -> bool:
        return self._held.get(header.batch) == header

    def path(self, batch: bytes) -> Path | None:
        """The file of a batch that is here, held or fetched."""
        here = batch in self._held or batch in self._fetched
        return self._folder / batch.hex() if here else None

    def why_no_room(self, header: BatchHeader) -> str:
        """ "" if quotas allow this batch, else which does not."""
        replaced = self._by_counter.get((header.worker, header.counter))
        others = [held for held in self._held.values() if held.batch != replaced]
        own = [held.size_bytes for held in others if held.worker == header.worker]
        if len(own) >= BATCHES_PER_WORKER or sum(own) + header.size_bytes > BATCH_BYTES_PER_WORKER:
            return "this worker's share of the store is full"
        total_bytes = sum(held.size_bytes for held in others)
        if len(others) >= BATCHES_TOTAL or total_bytes + header.size_bytes > BATCH_BYTES_TOTAL:
            return "the store is full"
        return ""

    def is_committed(self, worker: bytes, counter: int) -> bool:
        """Whether the batch under this counter was committed to: it is not replaced any more."""
        return self._by_counter.get((worker, counter)) in self._committed

    def commit(self, batch: bytes) -> None:
        if batch in self._held:
            self._committed.add(batch)

    # ---- work (disk)

    def temporary(self) -> Path:
        """A new path for bytes that arrive."""
        return self._folder / f"{next(self._temporary)}.tmp"

    def keep(self, arrived: Path, header: BatchHeader) -> None:
        """Take in synced bytes under their header, instead of an earlier batch of the counter.
        Raises RemoteError if they are not what the header says; the file is gone then."""
        self._verify(arrived, header.batch, header.size_bytes, header.worker)
        meta = self.temporary()
        meta.write_bytes(encode(header))
        _sync(meta)
        arrived.rename(self._folder / header.batch.hex())
        meta.rename(self._meta(header.batch))
        _sync(self._folder)
        replaced = self._by_counter.get((header.worker, header.counter))
        self._note(header)
        if replaced is not None and replaced != header.batch:
            self.delete(replaced)

    def keep_fetched(self, arrived: Path, batch: bytes, size_bytes: int, holder: bytes) -> Path:
        """Take in synced bytes that we asked for. Raises RemoteError naming the holder."""
        self._verify(arrived, batch, size_bytes, holder)
        final = self._folder / batch.hex()
        arrived.rename(final)
        _sync(self._folder)
        self._fetched.add(batch)
        return final

    def delete(self, batch: bytes) -> None:
        """Forget a batch, held or fetched. The header goes first: a file alone is merely
        fetched."""
        header = self._held.pop(batch, None)
        if header is not None and self._by_counter.get((header.worker, header.counter)) == batch:
            del self._by_counter[header.worker, header.counter]
        self._fetched.discard(batch)
        self._committed.discard(batch)
        self._meta(batch).unlink(missing_ok=True)
        (self._folder / batch.hex()).unlink(missing_ok=True)

    def _open(self) -> None:
        for path in self._folder.iterdir():
            if path.suffix == ".tmp":
                path.unlink()
            elif path.suffix == ".meta":
                self._open_held(path)
        for path in self._folder.iterdir():
            if not path.suffix and len(path.name) == 2 * DIGEST_BYTES:
                batch = bytes.fromhex(path.name)
                if batch not in self._held:
                    self._fetched.add(batch)

    def _open_held(self, meta: Path) -> None:
        file = meta.with_suffix("")
        try:
            header = decode(headers, meta.read_bytes())
        except RemoteError:
            meta.unlink()
            return
        if file.exists() and file.stat().st_size == header.size_bytes:
            self._note(header)
        else:
            meta.unlink()

    def _note(self, header: BatchHeader) -> None:
        self._held[header.batch] = header
        self._by_counter[header.worker, header.counter] = header.batch
        self._fetched.discard(header.batch)

    def _verify(self, arrived: Path, batch: bytes, size_bytes: int, sender: bytes) -> None:
        if arrived.stat().st_size != size_bytes or file_digest(arrived) != batch:
            arrived.unlink()
            reason = "the bytes are not the batch they were said to be"
            raise RemoteError(reason, peer=sender, penalty=MID)

    def _meta(self, batch: bytes) -> Path:
        return self._folder / f"{batch.hex()}.meta"


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
