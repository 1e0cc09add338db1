"""Environments from other packages: found by entry point, pinned by what their wheel recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from primed.training import environments
from primed.training.errors import BadConfig

MODULE = """
class Task:
    name, version, parameters, size, eos = "foreign", "1", {}, 10, 2
    def prompt(self, index): return [1, 3]
    def reward(self, index, completion, finished): return 1_000_000
    def describe(self, index, completion): return ""
"""
RECORD = """foreign_task.py,sha256={hash},200
foreign-1.0.dist-info/METADATA,sha256=abc,50
foreign-1.0.dist-info/INSTALLER,sha256={installer},4
../../bin/foreign,sha256={installer},4
__pycache__/foreign_task.cpython-311.pyc,,
foreign-1.0.dist-info/RECORD,,
"""


def install(folder: Path, record: str, name: str = "foreign", direct_url: str = "") -> None:
    info = folder / "foreign-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (folder / "foreign_task.py").write_text(MODULE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign\nVersion: 1.0\n")
    (info / "RECORD").write_text(record)
    (info / "entry_points.txt").write_text(f"[primed.environments]\n{name} = foreign_task:Task\n")
    if direct_url:
        (info / "direct_url.json").write_text(direct_url)


def test_the_digest_follows_the_wheels_files_not_the_installer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    install(tmp_path, RECORD.format(hash="aaa", installer="pip"))
    first = environments.load("foreign")
    assert first.environment.size == 10
    install(tmp_path, RECORD.format(hash="aaa", installer="uv"))
    assert environments.load("foreign").digest == first.digest
    install(tmp_path, RECORD.format(hash="bbb", installer="pip"))
    assert environments.load("foreign").digest != first.digest


def test_what_cannot_be_pinned_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    install(tmp_path, "")
    with pytest.raises(BadConfig, match="no RECORD"):
        environments.load("foreign")
    install(tmp_path, RECORD.format(hash="a", installer="pip"), name="alias")
    with pytest.raises(BadConfig, match="calls itself"):
        environments.load("alias")
    install(tmp_path, RECORD.format(hash="a", installer="pip"), name="sort-digits")
    with pytest.raises(BadConfig, match="several packages"):
        environments.load("sort-digits")
    editable = '{"url": "file:///x", "dir_info": {"editable": true}}'
    install(tmp_path, RECORD.format(hash="a", installer="pip"), direct_url=editable)
    with pytest.raises(BadConfig, match="editable"):
        environments.load("foreign")
