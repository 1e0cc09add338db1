"""kill -9 of a writing process, again and again (scenarios 1 and 42): nothing that was committed is
lost, there is no gap, and the store opens without repair."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from primed.node.store import Store
from primed.protocols.events.messages import Event

RUN, AUTHOR = b"r" * 32, b"a" * 38
WRITER = """
import sys
import msgspec
from pathlib import Path
from primed.node.store import Store
from primed.node.store.batches import BatchRow
from primed.protocols.events.messages import Event, SignedEvent, Stored, event_digest
from primed.verify.statements import Skipped

RUN, AUTHOR = b"r" * 32, b"a" * 38
store = Store(Path(sys.argv[1]))
head = store.events.head(RUN, AUTHOR)
seq, prev = (head.seq + 1, head.digest) if head else (0, RUN)
while True:
    event = Event(RUN, AUTHOR, seq, prev, 1, Skipped(seq, "x" * 150))
    body = msgspec.msgpack.encode(event)
    stored = Stored(SignedEvent(body, bytes(64)), event, event_digest(body))
    with store.transaction():
        store.events.append(RUN, [stored])
        store.batches.put(RUN, BatchRow(seq, "stored", b"v"))
    print(seq, flush=True)
    seq, prev = seq + 1, stored.digest
"""


def killed_writer(path: Path, after_lines: int) -> int:
    """Run the writer, kill it in full flight; the last sequence number it said was committed."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE)
    assert process.stdout is not None
    for _ in range(after_lines):
        assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    said = process.stdout.read().split()
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    return int(said[-1]) if said else -1


def test_a_killed_writer_loses_nothing_and_leaves_no_gap(tmp_path: Path) -> None:
    path = tmp_path / "primed.db"
    reached = -1
    for after_lines in (1, 7, 23, 2, 40):
        reached = max(reached, killed_writer(path, after_lines))
        store = Store(path)
        events = [
            msgspec.msgpack.decode(signed.event, type=Event)
            for signed in store.events.get(RUN, AUTHOR, 0, 1_000_000)
        ]
        head = store.events.head(RUN, AUTHOR)
        assert head is not None and head.seq == len(events) - 1 >= reached
        assert [event.seq for event in events] == list(range(len(events)))
        assert len(store.batches.newest(RUN, 10**6)) == len(events)  # one commit, both or none
        store.close()
    assert len(events) > 60
