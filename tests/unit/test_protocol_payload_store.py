"""PayloadStore: leaf by leaf, verified, and safe to kill at any point (scenarios 1, 12)."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primed.protocols.shardcast.bitmap import Bitmap
from primed.protocols.shardcast.store import PayloadStore, fits, leaf_bytes_for
from primed.verify.statements import Payload

from .small_disk import run_on_small_disk

MIB = 1 << 20


def a_file(folder: Path, size_bytes: int, seed: int = 1) -> Path:
    path = folder / f"source-{seed}"
    path.write_bytes(random.Random(seed).randbytes(size_bytes))
    return path


def copy_leaf(source: PayloadStore, target: PayloadStore, payload: Payload, index: int) -> None:
    read = source.read_leaf(payload, index)
    assert read is not None
    assert target.write_leaf(payload, index, *read)


@pytest.mark.parametrize("size_bytes", [1, 65_535, 65_536, 65_537, 5 * 65_536 + 3, 17 * MIB])
def test_every_leaf_travels_and_the_copy_is_identical(tmp_path: Path, size_bytes: int) -> None:
    source, target = PayloadStore(tmp_path / "a"), PayloadStore(tmp_path / "b")
    file = a_file(tmp_path, size_bytes)
    payload = source.import_file(file)
    assert payload.leaf_bytes == leaf_bytes_for(size_bytes)
    assert not target.open(payload).total
    for index in random.Random(2).sample(range(payload.leaves), payload.leaves):
        copy_leaf(source, target, payload, index)
    assert target.finish(payload).read_bytes() == file.read_bytes()
    for store in (source, target, PayloadStore(tmp_path / "b")):
        have, read = store.have(payload), store.read_leaf(payload, payload.leaves - 1)
        assert have is not None and have.is_full and read is not None
        assert fits(payload, payload.leaves - 1, *read)


def test_false_leaves_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    source, target = PayloadStore(tmp_path / "a"), PayloadStore(tmp_path / "b")
    payload = source.import_file(a_file(tmp_path, 300_000))
    target.open(payload)
    read = source.read_leaf(payload, 1)
    assert read is not None
    leaf, path = read
    for index, bad, way in (
        *((1, bytes([leaf[0] ^ 1]) + leaf[1:], path), (1, leaf[:-1], path), (0, leaf, path)),
        *((1, leaf, path[:-1]), (1, leaf, [*path, bytes(32)]), (-1, leaf, path), (99, leaf, path)),
    ):
        assert not target.write_leaf(payload, index, bad, way)
    assert not target.open(payload).total
    with pytest.raises(ValueError, match="missing"):
        target.finish(payload)


def test_what_was_torn_on_disk_counts_as_missing_when_opened_again(tmp_path: Path) -> None:
    source, target = PayloadStore(tmp_path / "a"), PayloadStore(tmp_path / "b")
    payload = source.import_file(a_file(tmp_path, 8 * 65_536))
    target.open(payload)
    for index in range(6):
        copy_leaf(source, target, payload, index)
    (part,) = (tmp_path / "b").glob("*.part")
    (paths,) = (tmp_path / "b").glob("*.paths")
    with part.open("r+b") as file:
        file.seek(2 * 65_536 + 100)
        file.write(b"torn")
    with paths.open("r+b") as file:
        file.seek(4 * 97 + 5)  # a slot: flag and three hashes
        file.write(b"torn")
    again = PayloadStore(tmp_path / "b")
    assert again.have(payload) is None
    assert list(again.open(payload)) == [0, 1, 3, 5]
    for index in (2, 4, 6, 7):
        copy_leaf(source, again, payload, index)
    assert again.finish(payload).read_bytes() == (tmp_path / "source-1").read_bytes()


def test_another_size_under_the_same_root_is_another_payload(tmp_path: Path) -> None:
    store = PayloadStore(tmp_path / "a")
    payload = store.import_file(a_file(tmp_path, 100_000))
    lie = Payload(payload.root, payload.size_bytes + 1, payload.leaf_bytes)
    assert store.have(lie) is None and store.read_leaf(lie, 0) is None
    assert not store.open(lie).total
    assert store.path(payload) is not None


def test_delete_forgets_everything(tmp_path: Path) -> None:
    source, store = PayloadStore(tmp_path / "s"), PayloadStore(tmp_path / "a")
    payload = source.import_file(a_file(tmp_path, 100_000))
    store.open(payload)
    store.delete(payload)
    source.delete(payload)
    assert not list((tmp_path / "a").iterdir()) and not list((tmp_path / "s").iterdir())
    assert source.path(payload) is None and not source.payloads()


WRITER = """
import sys
from pathlib import Path
from primed.protocols.shardcast.store import PayloadStore

folder = Path(sys.argv[1])
source, target = PayloadStore(folder / "a"), PayloadStore(folder / "b")
(payload,) = source.payloads()
have = target.open(payload)
print("open", flush=True)
for index in range(payload.leaves):
    if index not in have:
        assert target.write_leaf(payload, index, *source.read_leaf(payload, index))
        print("leaf", flush=True)
target.finish(payload)
print("done", flush=True)
"""


def test_scenario_1_kill_9_at_any_point_loses_nothing_that_was_written(tmp_path: Path) -> None:
    """Four kills in the midst of writing; each process goes on where the one before died."""
    file = a_file(tmp_path, 12 * MIB)
    payload = PayloadStore(tmp_path / "a").import_file(file)
    rng, before = random.Random(4), 0
    for _ in range(4):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        lines = [process.stdout.readline() for _ in range(rng.randrange(20))]
        written = lines.count(b"leaf\n")  # fewer, if it was done before it was killed
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        now = PayloadStore(tmp_path / "b").open(payload).total
        assert now >= before + written
        before = now
    subprocess.run([sys.executable, "-c", WRITER, str(tmp_path)], check=True, capture_output=True)
    path = PayloadStore(tmp_path / "b").path(payload)
    assert path is not None and path.read_bytes() == file.read_bytes()


FULL = """
import errno, random, shutil, sys, tempfile
from pathlib import Path
from primed.protocols.shardcast.store import PayloadStore

MIB = 1 << 20
disk, elsewhere = Path(sys.argv[1]), Path(tempfile.mkdtemp())
source, target = PayloadStore(elsewhere / "a"), PayloadStore(disk / "b")


def payload_of(size_bytes):
    (elsewhere / "file").write_bytes(random.Random(size_bytes).randbytes(size_bytes))
    payload = source.import_file(elsewhere / "file")
    (elsewhere / "file").unlink()
    return payload


def full(function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        return error.errno == errno.ENOSPC


def copy(payload):
    have = target.open(payload)
    for index in range(payload.leaves):
        if index not in have:
            target.write_leaf(payload, index, *source.read_leaf(payload, index))
    return target.finish(payload)


def is_whole(payload):
    return target.path(payload).read_bytes() == source.path(payload).read_bytes()


old, huge, new = payload_of(MIB), payload_of(9 * MIB), payload_of(2 * MIB)
copy(old)
free = shutil.disk_usage(disk).free
print(full(target.open, huge), shutil.disk_usage(disk).free >= free - 4096)
target.open(new)
ballast = (disk / "ballast").open("wb", buffering=0)
full(lambda: [ballast.write(bytes(4096)) for _ in range(4096)])
print(full(copy, new), is_whole(old), target.path(new))
(disk / "ballast").unlink()
ballast.close()
copy(new)
print(is_whole(old), is_whole(new), sorted(path.suffix for path in (disk / "b").iterdir()))
shutil.rmtree(elsewhere)
"""


def test_scenario_12_a_disk_that_is_really_full_costs_nothing_that_was_there(
    tmp_path: Path,
) -> None:
    """A payload that does not fit gives its room back; one that ran out of it goes on later."""
    out = run_on_small_disk(tmp_path / "disk", FULL, mib=5)
    assert out.splitlines() == [
        "True True",
        "True True None",
        "True True ['', '', '.paths', '.paths']",
    ]


@given(st.integers(1, 70), st.binary(max_size=12))
def test_bitmaps_from_any_bytes_hold_only_bits_of_the_payload(count: int, data: bytes) -> None:
    bitmap = Bitmap(count, data)
    assert bitmap.total == len(list(bitmap)) <= count
    assert all(index < count for index in bitmap)
    assert Bitmap(count, bytes(bitmap)).total == bitmap.total
    for index in range(count):
        bitmap.add(index)
    assert bitmap.is_full and bytes(bitmap) == bytes(Bitmap.full(count))


def test_a_payload_deleted_before_it_was_finished_is_no_bug(tmp_path: Path) -> None:
    payload = Payload(bytes(32), 9, 1024)
    store = PayloadStore(tmp_path / "store")
    store.open(payload)
    store.delete(payload)
    with pytest.raises(FileNotFoundError):
        store.finish(payload)
