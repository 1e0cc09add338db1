"""How long one asker may hold a place of the bulk lane, of which a home computer has two: until it
has had its bytes, or for some minutes, whatever it asks for. One side of a channel in memory."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from primed.p2p.uploads import Uploads
from primed.protocols.framing import encode
from primed.protocols.shardcast import PayloadStore, bulk
from primed.protocols.shardcast.messages import Want
from primed.verify.statements import Payload


class Asker:
    """Sends the same request again and again, a little time apart, and takes whatever comes."""

    peer, is_cut = b"p" * 38, False

    def __init__(self, payload: Payload, pause_s: float) -> None:
        body = encode(Want(payload, (0,)))
        self._request = len(body).to_bytes(4, "big") + body
        self._left, self._pause_s = b"", pause_s
        self.requests = self.taken_bytes = 0

    def recv_into(
        self, buffer: bytearray | memoryview, *, first_byte_s: float | None = None
    ) -> bool:
        if not self._left:
            time.sleep(self._pause_s)
            self.requests += 1
            assert self.requests < 1000
            self._left = self._request
        buffer[:] = self._left[: len(buffer)]
        self._left = self._left[len(buffer) :]
        return True

    def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.taken_bytes += len(data)


def serve(store: PayloadStore, asker: Asker) -> None:
    bulk.answer_wants(store, Uploads(), lambda *_: None, asker)


def test_who_asks_for_nothing_gives_the_place_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "BULK_LEASE_S", 0.3)
    asker = Asker(Payload(bytes(32), 1 << 20, 1 << 16), pause_s=0.02)  # nobody has it
    began = time.monotonic()
    serve(PayloadStore(tmp_path / "store"), asker)
    assert 0.3 <= time.monotonic() - began < 3


def test_who_had_its_bytes_gives_the_place_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "BULK_LEASE_BYTES", 500_000)
    store, path = PayloadStore(tmp_path / "store"), tmp_path / "file"
    path.write_bytes(random.Random(1).randbytes(100_000))
    payload = store.import_file(path)
    asker = Asker(payload, pause_s=0.0)
    serve(store, asker)
    assert 500_000 <= asker.taken_bytes < 600_000
    assert asker.requests == -(-500_000 // payload.leaf_bytes)
