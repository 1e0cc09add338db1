"""The key file: private, complete or absent, and silent about its secret."""

from __future__ import annotations

import os
import pickle
import traceback
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from primed.p2p import identity, peerid
from primed.p2p.errors import UserError


def test_what_was_created_is_loaded_and_signs_as_its_peer(tmp_path: Path) -> None:
    path = tmp_path / "home" / "identity.pem"
    made = identity.create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == ["identity.pem"]
    loaded = identity.load(path)
    assert (loaded.peer, loaded.seed) == (made.peer, made.seed)
    key = Ed25519PublicKey.from_public_bytes(peerid.public_key_of(loaded.peer))
    key.verify(loaded.sign(b"message"), b"message")


def test_an_identity_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    made = identity.create(path)
    with pytest.raises(UserError, match="already"):
        identity.create(path)
    assert identity.load(path).peer == made.peer
    assert os.listdir(tmp_path) == ["identity.pem"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o700 | 0o001])
def test_scenario_43_a_readable_key_file_is_refused_with_the_fix(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "my key.pem"
    identity.create(path)
    path.chmod(mode)
    with pytest.raises(UserError, match=f"{mode:04o}") as caught:
        identity.load(path)
    assert caught.value.hint == f"run: chmod 600 '{path}'"
    path.chmod(0o600)
    identity.load(path)


def test_scenario_43_another_owner_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    identity.create(path)
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(path, 12345, -1)
    with pytest.raises(UserError, match="another user") as caught:
        identity.load(path)
    assert "chown" in caught.value.hint


def test_a_missing_linked_or_damaged_file_is_a_user_error(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    with pytest.raises(UserError, match="no identity"):
        identity.load(path)
    identity.create(path)
    link = tmp_path / "link.pem"
    link.symlink_to(path)
    with pytest.raises(UserError):
        identity.load(link)
    with pytest.raises(UserError):
        identity.load(tmp_path)
    for content in (b"", b"junk", os.urandom(5000), _other_key()):
        path.write_bytes(content)
        with pytest.raises(UserError):
            identity.load(path)


def _other_key() -> bytes:
    return X25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def test_scenario_43_the_secret_is_in_no_repr_pickle_or_traceback(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    made = identity.create(path)
    secrets = (made.seed.hex(), repr(made.seed), path.read_text().splitlines()[1])
    assert not any(secret in repr(made) or secret in str(vars_of(made)) for secret in secrets)
    with pytest.raises(TypeError):
        pickle.dumps(made)
    path.write_text(path.read_text()[:-40])
    try:
        identity.load(path)
    except UserError as error:
        told = "".join(traceback.format_exception(error))
        assert not any(secret in told for secret in secrets)
    else:
        pytest.fail("a cut file was loaded")


def vars_of(made: identity.Identity) -> list[str]:
    return [repr(getattr(made, name)) for name in made.__slots__]
