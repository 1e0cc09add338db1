"""The support archive: what it holds, what it hides, and that no key gets in (scenario 43)."""

from __future__ import annotations

import base64
import json
import stat
import tarfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from primed.node import bundle
from primed.node.paths import Paths
from primed.node.redaction import Redactor, forms_of
from primed.node.store import Store
from primed.p2p import identity
from primed.p2p.errors import UserError


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = Paths(tmp_path / "node")
    paths.create()
    identity.create(paths.identity)
    Store(paths.database).close()
    paths.config.write_text('bootstrap = []\nlisten = ["/ip4/198.51.100.3/tcp/4101"]\n')
    return paths


def ways_to_leak(seed: bytes) -> dict[str, bytes]:
    key = Ed25519PrivateKey.from_private_bytes(seed)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return {
        "raw": b"seed is " + seed,
        "hex": f"seed={seed.hex()}".encode(),
        "HEX": seed.hex().upper().encode(),
        "base64": base64.b64encode(seed),
        "urlsafe": base64.urlsafe_b64encode(b"ab" + seed + b"c"),
        "pem body": b"".join(pem.splitlines()[1:-1]),
        "pem": pem,
        "list": str(list(seed)).encode(),
        "repr": repr(seed).encode(),
    }


def contents(path: Path) -> dict[str, bytes]:
    found = {}
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            found[member.name.removeprefix("primed-bundle/")] = file.read()
    return found


def test_what_is_in_it_and_what_is_not(paths: Paths, tmp_path: Path) -> None:
    """A canary for every form of the key; the bundle is made, and says which files it dropped."""
    seed = identity.load(paths.identity).seed
    for name, content in ways_to_leak(seed).items():
        (paths.logs / f"leak-{name}.log").write_bytes(b"before\n" + content + b"\nafter\n")
    line = '{"event": "connected to 203.0.113.9 and 203.0.113.9", "token": "hush"}\n'
    (paths.logs / "daemon.log").write_text(line * 20_000)
    out = tmp_path / "b.tar.gz"
    made = bundle.write(paths, out)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert set(made.dropped) == {f"logs/leak-{name}.log" for name in ways_to_leak(seed)}
    kept = contents(out)
    assert set(kept) == set(made.members)
    assert b"logs/leak-hex.log held this node's key and was left out" in kept["README.txt"]
    assert "no daemon runs" in json.loads(kept["status.json"])["error"]
    assert json.loads(kept["store.json"])["schema"] >= 1
    assert json.loads(kept["versions.json"])["libp2p"]
    assert len(json.loads(kept["doctor.json"])["checks"]) > 10
    settings = {each["name"]: each for each in json.loads(kept["config.json"])["settings"]}
    assert settings["listen"]["value"][0].startswith("/ip4/<ip ")
    assert 200_000 < len(kept["logs/daemon.log"]) < 300_000
    whole = b"\n".join(kept.values())
    for secret in (b"203.0.113.9", b"198.51.100.3", b"hush", str(paths.root).encode()):
        assert secret not in whole
    assert not any(form in whole for form in forms_of(seed))
    with pytest.raises(UserError, match="cannot write"):
        bundle._archive(out, {})


def test_there_is_no_bundle_when_the_key_cannot_be_looked_for(paths: Paths, tmp_path: Path) -> None:
    paths.identity.chmod(0o644)
    with pytest.raises(UserError, match="others can read"):
        bundle.write(paths, tmp_path / "b.tar.gz")
    assert not (tmp_path / "b.tar.gz").exists()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/ip4/192.0.2.1/tcp/4101/p2p/12D3", "/ip4/<ip 1>/tcp/4101/p2p/12D3"),
        ("/ip4/127.0.0.1/tcp/4101", "/ip4/127.0.0.1/tcp/4101"),
        ("/ip4/0.0.0.0/tcp/4101", "/ip4/0.0.0.0/tcp/4101"),
        ("/ip6/2001:db8::1/tcp/1 and [2001:db8::1]:5", "/ip6/<ip 1>/tcp/1 and [<ip 1>]:5"),
        ("/dns4/node.example.org/tcp/1", "/dns4/<host 1>/tcp/1"),
        ("2026-11-24T06:46:41.123456Z took 10:20:30", "2026-11-24T06:46:41.123456Z took 10:20:30"),
        ("torch 2.13.0+cpu, 1.2.3", "torch 2.13.0+cpu, 1.2.3"),
        ("/data/node/logs of /home/ada/x", "<data dir>/logs of ~/x"),
        ('HF_TOKEN=hf_abc "api_key": "x1"', 'HF_TOKEN=<redacted> "api_key": "<redacted>"'),
        (
            "a\n-----BEGIN PRIVATE KEY-----\nMC4C\n-----END PRIVATE KEY-----\nb",
            "a\n<private key>\nb",
        ),
        ("192.0.2.1 192.0.2.2 192.0.2.1", "<ip 1> <ip 2> <ip 1>"),
    ],
)
def test_redaction(text: str, shown: str) -> None:
    assert Redactor(Path("/data/node"), Path("/home/ada")).text(text) == shown


@given(
    secret=st.binary(min_size=32, max_size=32),
    before=st.binary(max_size=40),
    after=st.binary(max_size=40),
)
def test_a_secret_is_found_inside_any_encoding(secret: bytes, before: bytes, after: bytes) -> None:
    whole = before + secret + after
    encoded = (
        whole,
        whole.hex().encode(),
        base64.b64encode(whole),
        base64.urlsafe_b64encode(whole),
    )
    for text in encoded:
        assert any(form in text for form in forms_of(secret))
