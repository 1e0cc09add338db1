"""Scenario 18: a process killed in the middle of a migration; the next start completes it, and the
store is the same as if nothing had happened."""

from __future__ import annotations

import hashlib
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from primed.node.store.database import Database
from primed.node.store.schema import MIGRATIONS
from primed.p2p.errors import UserError

NEXT = (
    "ALTER TABLE batches ADD COLUMN size INTEGER NOT NULL DEFAULT 0",
    "UPDATE batches SET size=length(detail)",
    "CREATE TABLE sizes AS SELECT run, sum(size) AS total FROM batches GROUP BY run",
    "DROP TABLE evidence",
)
HALFWAY = """
import sys, time
from pathlib import Path
from primed.node.store.database import Database
from primed.node.store.schema import MIGRATIONS

def halfway():
    for number, statement in enumerate(%r):
        if number == int(sys.argv[2]):
            print("halfway", flush=True)
            time.sleep(60)
        yield statement

Database(Path(sys.argv[1]), [*MIGRATIONS, halfway()])
"""


def filled(path: Path) -> Path:
    database = Database(path)
    rows = [(bytes([n]) * 32, n, "stored", b"v", b"x" * (n + 400)) for n in range(250)]
    sql = "INSERT INTO batches (run, counter, state, version, detail) VALUES (?,?,?,?,?)"
    database.write_many(sql, rows)
    database.close()
    return path


def checksum(path: Path) -> str:
    """Of everything in the store, tables and rows."""
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        dump = "\n".join(connection.iterdump())
        dump += str(connection.execute("PRAGMA user_version").fetchone())
    connection.close()
    return hashlib.sha256(dump.encode()).hexdigest()


@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_killed_migration_is_made_again(tmp_path: Path, done: int) -> None:
    killed, whole = filled(tmp_path / "killed.db"), filled(tmp_path / "whole.db")
    before = checksum(killed)
    command = [sys.executable, "-c", HALFWAY % (NEXT,), str(killed), str(done)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"halfway\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert checksum(killed) == before  # rolled back: all or nothing
    for path in (killed, whole):
        Database(path, [*MIGRATIONS, NEXT]).close()
    assert checksum(killed) == checksum(whole) != before


def test_a_store_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "primed.db"
    Database(path, [*MIGRATIONS, NEXT]).close()
    with pytest.raises(UserError, match=r"newer primed \(schema 2\)") as caught:
        Database(path)
    assert "update primed" in caught.value.hint
