"""The store of batches on a full disk."""

from __future__ import annotations

from pathlib import Path

from .small_disk import run_on_small_disk

FULL = """
import os, sys
from pathlib import Path
from primed.protocols.rollouts.messages import BatchHeader
from primed.protocols.rollouts.store import BatchStore
from primed.verify.digests import content_digest

disk = Path(sys.argv[1])
store = BatchStore(disk / "batches")
room = os.statvfs(disk)
data = os.urandom(room.f_bavail * room.f_bsize)
header = BatchHeader(bytes(32), bytes(38), 0, content_digest(data), bytes(32), len(data))
try:
    with store.arriving() as arrived:
        arrived.write_bytes(data)
        store.keep(arrived, header)
except OSError:
    print(len(list((disk / "batches").iterdir())), store.path(header.batch))
"""


def test_a_batch_whose_header_finds_no_room_leaves_nothing(tmp_path: Path) -> None:
    assert run_on_small_disk(tmp_path / "disk", FULL, mib=2).split() == ["0", "None"]
