"""The documentation follows the code: settings, run file, limits, names, files, tests and links."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from msgspec import NODEFAULT, inspect

import primed.p2p.limits
import primed.protocols.limits
from primed.node.config import SETTINGS
from primed.node.metrics import Metrics
from primed.node.runfile import RunFile
from primed.p2p.network import Traffic

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
DASHBOARD = "docker/grafana/primed.json"
PAGES = [*DOCS.rglob("*.md"), ROOT / "README.md"]
FOLDERS = "node|p2p|protocols|training|verify|native|docker|docs|tests"


def text_of(name: str) -> str:
    return (DOCS / name).read_text()


def rows(name: str) -> Iterator[tuple[str, str]]:
    """(first cell in code font, second cell) of every table row of a page."""
    for key, value in re.findall(r"^\| `([^`]+)` \| ([^|]*) \|", text_of(name), re.MULTILINE):
        yield key, value.strip().strip("`")


def code() -> Iterator[tuple[Path, str]]:
    for folder in ("node", "p2p", "protocols", "training", "verify"):
        for path in (ROOT / folder).rglob("*.py"):
            yield path, path.read_text()


def test_every_setting_is_in_the_contributors_table_with_its_default() -> None:
    section = text_of("contributor.md").split("## Settings")[1].split("\n## ")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| `([^|]*)` \|", section, re.MULTILINE))
    assert set(told) == set(SETTINGS)
    for name, item in SETTINGS.items():
        assert told[name] == json.dumps(item.default), name


def run_file_fields(kind: inspect.StructType, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, default or NODEFAULT if required) of every value that a run file can set."""
    for item in kind.fields:
        inner, name = item.type, prefix + item.encode_name
        if isinstance(inner, inspect.VarTupleType):
            inner, name = inner.item_type, f"{name}[]"
        if isinstance(inner, inspect.StructType):
            yield from run_file_fields(inner, f"{name}.")
        else:
            yield name, item.default


def test_every_field_of_a_run_file_is_in_the_originators_table_with_its_default() -> None:
    kind = inspect.type_info(RunFile)
    assert isinstance(kind, inspect.StructType)
    told = dict(rows("originator.md"))
    for name, default in run_file_fields(kind):
        assert name in told, name
        found = told[name]
        expected = default if default is not NODEFAULT else "required"
        assert (found if found == "required" else tomllib.loads(f"x = {found}")["x"]) == expected, (
            name
        )


def test_the_run_file_of_the_originators_page_is_one() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", text_of("originator.md"), re.DOTALL)
    assert msgspec.convert(tomllib.loads(example), RunFile).toy


@pytest.mark.parametrize("module", [primed.protocols.limits, primed.p2p.limits])
def test_every_limit_is_in_the_protocol_page_with_its_value(module: ModuleType) -> None:
    told: dict[str, set[float]] = {}
    for name, value in rows("protocol.md"):
        if name.isupper():
            told.setdefault(name, set()).add(float(value.replace(",", "")))
    for name, value in vars(module).items():
        if name.isupper() and isinstance(value, int | float) and name != "MIB":
            assert value in told.get(name, ()), name


def test_every_digest_context_and_signing_domain_is_in_the_protocol_page() -> None:
    page = text_of("protocol.md")
    for path, source in code():
        for what in re.findall(r"\b(?:digest|Xof|message_to_sign)\(\s*\"([a-z-]+)\"", source):
            assert f"`{what}`" in page, (path, what)
        for what in re.findall(r"\branked\([^\"]*?\"([a-z]+)\"", source):
            assert f"`rendezvous-{what}`" in page, (path, what)


def problem_names() -> Iterator[str]:
    """As written where problems are raised; `{...}` stands for any text."""
    for path in (ROOT / "node").rglob("*.py"):
        source = path.read_text()
        yield from re.findall(r"ProblemView\(name=f?\"([^\"]+)\"", source)
        yield from re.findall(r"\braise_\(\s*f?\"([^\"]+)\"", source)


def test_every_problem_is_in_the_contributors_table() -> None:
    section = text_of("contributor.md").split("## Problems")[1].split("\n## ")[0]
    told = re.findall(r"`([\w<>-]+)`", section)
    names = set(problem_names())
    assert {"no-peers", "join", "{role}-away"} <= names
    for name in names:
        pattern = re.sub(r"\\\{.*?\\\}", r"[\\w<>-]+", re.escape(name))
        assert any(re.fullmatch(pattern, each) for each in told), name


def exported_metrics() -> set[str]:
    metrics = Metrics()
    metrics.watch_traffic(Traffic)
    families = metrics.registry.collect()
    return {f.name + ("_total" if f.type == "counter" else "") for f in families}


def test_the_operators_page_has_exactly_the_metrics_there_are() -> None:
    assert set(re.findall(r"`(primed_\w+)`", text_of("operator.md"))) == exported_metrics()


def test_the_dashboard_shows_only_metrics_there_are() -> None:
    shown = re.findall(r"primed_\w+?(?=_bucket|\W)", (ROOT / DASHBOARD).read_text())
    assert shown and set(shown) <= exported_metrics()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_names_in_them_that_a_page_mentions_exist(page: Path) -> None:
    mentioned = re.findall(rf"`((?:{FOLDERS})/[\w./-]*)(?:: ([\w.]+))?", page.read_text())
    for file, name in mentioned:
        assert (ROOT / file).exists(), file
        last = name.rpartition(".")[2]
        assert not last or re.search(rf"\b{last}\b", (ROOT / file).read_text()), (file, name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_tests_that_the_security_page_names_exist() -> None:
    file = ""
    named = re.findall(r"`((?:\w+/\w+\.py)?)::(test_\w+)`", text_of("security.md"))
    assert len(named) > 30
    for where, name in named:
        file = where or file
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), (file, name)


def test_pages_and_sections_that_docstrings_cite_exist() -> None:
    sections = set(re.findall(r"^## (\d+)\.", text_of("algorithms.md"), re.MULTILINE))
    for path, source in code():
        for page in re.findall(r"\bdocs/([\w/-]+\.md)", source):
            assert (DOCS / page).exists(), (path, page)
        for number in re.findall(r"docs/decisions/(\d{4})", source):
            assert list(DOCS.glob(f"decisions/{number}-*.md")), (path, number)
        for number in re.findall(r"algorithms\.md\s+section\s+(\d+)", source):
            assert number in sections, (path, number)
