"""docs/json.md is what the views are, and what the schemas promise is what is printed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from primed.node import schemas
from primed.p2p.errors import UserError

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_up_to_date() -> None:
    assert (DOCS / "json.md").read_text() == schemas.page(), "python -m primed.node.schemas"


def test_the_page_tells_every_field_of_every_view() -> None:
    page = schemas.page()
    for type_ in schemas.PRINTED.values():
        assert f"### {type_.__name__}" in page
        section = page.partition(f"### {type_.__name__}\n")[2].partition("\n### ")[0]
        for field in msgspec.structs.fields(type_):
            assert f"| `{field.name}` |" in section


def test_each_command_has_a_schema() -> None:
    every = schemas.schema_of("")
    assert set(every) == set(schemas.PRINTED)
    for name in schemas.PRINTED:
        schema = schemas.schema_of(name)
        assert schema == every[name] and schema["$defs"]
    with pytest.raises(UserError, match="no command 'nope'"):
        schemas.schema_of("nope")


def test_the_checks_of_the_doctor_are_documented() -> None:
    from primed.node.doctor import CHECKS

    page = (DOCS / "doctor.md").read_text()
    for check in CHECKS:
        assert f"`node/doctor/{check.__module__.rpartition('.')[2]}.py`" in page
