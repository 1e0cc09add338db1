"""An identity in an encrypted file: back with the passphrase, worth nothing without (scenario 43)."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from primed.node import key_export
from primed.node.redaction import forms_of
from primed.p2p.errors import UserError
from primed.p2p.identity import Identity

WORDS = "correct horse battery"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Identity, Path]:
    path = tmp_path_factory.mktemp("export") / "me.json"
    identity = Identity.generate()
    key_export.export(identity, path, WORDS)
    return identity, path


def test_what_was_exported_is_imported(exported: tuple[Identity, Path]) -> None:
    identity, path = exported
    again = key_export.read(path, WORDS)
    assert (again.peer, again.seed) == (identity.peer, identity.seed)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = path.read_bytes()
    assert not any(form in content for form in forms_of(identity.seed))
    with pytest.raises(UserError, match="exists already"):
        key_export.export(identity, path, WORDS)


def test_nothing_comes_out_without_the_passphrase(exported: tuple[Identity, Path]) -> None:
    with pytest.raises(UserError, match="wrong passphrase"):
        key_export.read(exported[1], f"{WORDS} ")


def test_every_part_of_the_file_is_authenticated(
    exported: tuple[Identity, Path], tmp_path: Path
) -> None:
    whole = json.loads(exported[1].read_text())
    other = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
    for change in ({"peer": other}, {"n": 2**14}):
        header = whole["header"] | change
        (tmp_path / "changed").write_text(json.dumps(whole | {"header": header}))
        with pytest.raises(UserError, match="wrong passphrase"):
            key_export.read(tmp_path / "changed", WORDS)


@pytest.mark.parametrize(
    "change",
    [
        {"n": 2**40},
        {"n": 2**17 + 1},
        {"r": 10**6},
        {"format": "primed-identity/9"},
        {"nonce": "AAAA"},
        {"more": 1},
    ],
)
def test_a_file_cannot_ask_for_any_amount_of_work(
    exported: tuple[Identity, Path], tmp_path: Path, change: dict[str, object]
) -> None:
    whole = json.loads(exported[1].read_text())
    (tmp_path / "bad").write_text(json.dumps(whole | {"header": whole["header"] | change}))
    with pytest.raises(UserError, match="not an exported identity"):
        key_export.read(tmp_path / "bad", WORDS)


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 20_000, b"\xff", b"{}" * 10_000])
def test_rubbish_is_refused_in_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(UserError, match="not an exported identity"):
        key_export.read(tmp_path / "bad", WORDS)
    with pytest.raises(UserError, match="cannot read"):
        key_export.read(tmp_path / "absent", WORDS)


def test_a_passphrase_has_some_length(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least 8"):
        key_export.export(Identity.generate(), tmp_path / "x", "short")
    assert not (tmp_path / "x").exists()
