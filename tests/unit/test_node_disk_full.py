"""Scenario 12: the disk is full while files are written. The last good file stays, the state says
`degraded: disk`, and work goes on when there is room; on a real file system that is really full."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import pytest
import trio

from primed.node.disk import DiskWatch, is_disk_full
from primed.node.problems import Problems
from primed.node.store.database import Database

from .small_disk import run_on_small_disk

CHILD = """
import sys
from pathlib import Path
import numpy as np
from primed.training import weights
from primed.training.child import _supervised

disk = Path(sys.argv[1])
old = {"a": np.arange(200_000, dtype=np.uint16)}
new = {"a": old["a"][::-1].copy()}
weights.write(disk / "state", old)
before = (disk / "state").read_bytes()
ballast = disk / "ballast"
try:
    with ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
except OSError:
    pass
reply = _supervised(7, lambda: weights.write(disk / "state", new))
print(type(reply).__name__, reply.kind, reply.fatal)
print((disk / "state").read_bytes() == before, sorted(path.name for path in disk.iterdir()))
ballast.unlink()
weights.write(disk / "state", new)
print(np.array_equal(weights.read(disk / "state")[0]["a"], new["a"]))
"""
STORE = """
import sqlite3, sys
from pathlib import Path
from primed.node.disk import is_disk_full
from primed.node.store import Store
from primed.node.store.batches import BatchRow

disk = Path(sys.argv[1])
store, run = Store(disk / "primed.db"), bytes(32)
counter = 0
try:
    while True:
        store.batches.put(run, BatchRow(counter, "stored", b"v", bytes(20_000)))
        counter += 1
except sqlite3.OperationalError as error:
    print(is_disk_full(error), counter > 10)
(newest,) = store.batches.newest(run, 1)
print(newest.counter == counter - 1)
store.close()
for path in disk.glob("ballast*"):
    path.unlink()
store = Store(disk / "primed.db")
store.batches.put(run, BatchRow(counter, "stored", b"v"))
print([row.counter for row in store.batches.newest(run, 2)] == [counter, counter - 1])
"""
SETTINGS = """
import sys
from pathlib import Path
from primed.node.config import load_config, write_config
from primed.node.paths import Paths

paths = Paths(Path(sys.argv[1]))
paths.create()
ballast = paths.root / "ballast"
try:
    with ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
except OSError:
    pass
try:
    write_config(paths, {"threads": 2})
except OSError as error:
    print(error.strerror)
ballast.unlink()
write_config(paths, {"threads": 3})
print(load_config(paths, {}, {}).threads)
"""
PRINTING = """
import sys, time
from pathlib import Path
import trio
from primed.node.child_link import spawn

disk = Path(sys.argv[1])
ballast, log = disk / "ballast", disk / "logs" / "engine.log"
code = "import pathlib, sys, time\\nwhile pathlib.Path(sys.argv[1]).exists():\\n"
code += "    print('a warning'); time.sleep(0.05)\\nprint('room')"

async def main():
    log.parent.mkdir()
    try:
        with ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError:
        pass
    link = await spawn([sys.executable, "-c", code, str(ballast)], 1, log)
    await trio.sleep(1)
    ballast.unlink()
    print(await link.exited(20))

trio.run(main)
deadline = time.monotonic() + 10
while not log.exists() or not log.read_text().endswith("room\\n"):
    assert time.monotonic() < deadline, log.read_text()
    time.sleep(0.05)
"""


def test_a_transaction_without_room_says_so(tmp_path: Path) -> None:
    """SQLite has rolled back by itself then."""
    database = Database(tmp_path / "primed.db", [["CREATE TABLE t (x BLOB)"]])
    database.write("PRAGMA max_page_count=4")
    with pytest.raises(sqlite3.OperationalError) as caught, database.transaction():
        database.write("INSERT INTO t VALUES (?)", bytes(100_000))
    assert is_disk_full(caught.value)
    with database.transaction():
        database.write("INSERT INTO t VALUES (?)", b"small")
    assert database.rows("SELECT x FROM t") == [(b"small",)]
    database.close()


def test_a_commit_that_fails_leaves_no_transaction_open(tmp_path: Path) -> None:
    schema = [
        "CREATE TABLE a (x INTEGER PRIMARY KEY)",
        "CREATE TABLE b (x REFERENCES a DEFERRABLE INITIALLY DEFERRED)",
    ]
    database = Database(tmp_path / "primed.db", [schema])
    database.write("PRAGMA foreign_keys=ON")
    with pytest.raises(sqlite3.IntegrityError), database.transaction():
        database.write("INSERT INTO b VALUES (7)")
    with database.transaction():
        database.write("INSERT INTO a VALUES (7)")
    assert database.rows("SELECT * FROM a") == [(7,)] and database.rows("SELECT * FROM b") == []
    database.close()


def test_a_checkpoint_without_room_leaves_the_one_before(tmp_path: Path) -> None:
    out = run_on_small_disk(tmp_path / "disk", CHILD, mib=2)
    assert out.splitlines() == ["Failed disk False", "True ['ballast', 'state']", "True"]


def test_a_store_without_room_keeps_what_it_has_and_goes_on(tmp_path: Path) -> None:
    ballast = "(disk / 'ballast').write_bytes(bytes(2**20))\ncounter = 0"
    script = STORE.replace("counter = 0", ballast, 1)
    out = run_on_small_disk(tmp_path / "disk", script, mib=6)
    assert out.splitlines() == ["True True", "True", "True"]


def test_settings_without_room_are_not_in_the_way_of_the_next_try(tmp_path: Path) -> None:
    out = run_on_small_disk(tmp_path / "disk", SETTINGS, mib=1)
    assert out.splitlines() == ["No space left on device", "3"]


def test_a_child_that_prints_without_room_lives_and_its_log_goes_on_with_room(
    tmp_path: Path,
) -> None:
    assert run_on_small_disk(tmp_path / "disk", PRINTING, mib=1) == "0\n"


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (OSError(errno.ENOSPC, "no room"), True),
        (OSError(errno.EDQUOT, "no more for you"), True),
        (ExceptionGroup("", [ValueError(), OSError(errno.ENOSPC, "")]), True),
        (OSError(errno.EACCES, ""), False),
        (ExceptionGroup("", [ValueError()]), False),
    ],
)
def test_which_errors_mean_a_full_disk(error: Exception, is_full: bool) -> None:
    assert is_disk_full(error) == is_full


def test_a_database_error_of_another_kind_is_none() -> None:
    with pytest.raises(sqlite3.OperationalError) as caught:
        sqlite3.connect(":memory:").execute("nonsense")
    assert not is_disk_full(caught.value)


@pytest.mark.trio
async def test_the_state_is_degraded_while_there_is_too_little_room(tmp_path: Path) -> None:
    problems = Problems()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(DiskWatch(tmp_path, problems, least_bytes=2**62).run)
        with trio.fail_after(5):
            while not problems.views():
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    (problem,) = problems.views()
    assert problem.name == "disk" and "MiB are free" in problem.what
    watch = DiskWatch(tmp_path, problems, least_bytes=1, noted_s=0.1)
    watch.note()
    assert "no room on the disk" in problems.views()[0].what
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        with trio.fail_after(5):
            while problems.views():
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
