"""A node's Ed25519 identity and the file that holds it (PKCS #8 PEM, mode 0600).

The file is refused when anybody else could have read or replaced it. Needs no libp2p. The secret
never appears in `repr`, and no function here logs.
"""

from __future__ import annotations

import os
import secrets
import shlex
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from primed.p2p import peerid
from primed.p2p.errors import UserError

_MAX_FILE_BYTES = 4096


class Identity:
    """Signs for one peer id. `seed` (32 bytes, secret) also keys the VRF (RFC 9381, RFC 8032)."""

    __slots__ = ("_key", "peer")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.peer: bytes = peerid.of_public_key(key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> Identity:
        """A new identity that is on no disk."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> Identity:
        """The identity of a 32-byte seed (RFC 8032)."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    def sign(self, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature of exactly these bytes."""
        return self._key.sign(message)

    @property
    def seed(self) -> bytes:
        return self._key.private_bytes_raw()

    def __repr__(self) -> str:
        return f"Identity({peerid.to_text(self.peer)})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("an identity does not leave its process")


def create(path: Path) -> Identity:
    """Make a new identity and its file. Raises UserError if the file exists."""
    identity = Identity.generate()
    keep(identity, path)
    return identity


def keep(identity: Identity, path: Path) -> None:
    """Write an identity's file. Raises UserError if the file exists.

    It appears complete or not at all: written under another name, synced, then linked.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        _write_private(draft, _to_pem(identity))
        os.link(draft, path)
    except FileExistsError as error:
        raise UserError(
            f"there is an identity already: {path}", "remove it only to become another peer"
        ) from error
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(path.parent)


def load(path: Path) -> Identity:
    """Read the identity. Raises UserError when it is missing, readable by others or broken."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise UserError(f"no identity at {path}", "run: primed init") from error
    except OSError as error:
        raise UserError(f"cannot open the key file {path}: {error.strerror}") from error
    try:
        _check_private(path, os.fstat(descriptor))
        return _from_pem(path, os.read(descriptor, _MAX_FILE_BYTES))
    finally:
        os.close(descriptor)


def _check_private(path: Path, status: os.stat_result) -> None:
    quoted = shlex.quote(str(path))
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"the key file {path} is not a regular file")
    if status.st_uid != os.geteuid():
        raise UserError(
            f"the key file {path} belongs to another user (uid {status.st_uid})",
            f"run: sudo chown {os.geteuid()} {quoted}",
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise UserError(
            f"others can read the key file {path} (mode {mode:04o})", f"run: chmod 600 {quoted}"
        )


def _to_pem(identity: Identity) -> bytes:
    return identity._key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _from_pem(path: Path, pem: bytes) -> Identity:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Without the cause: its message could quote the file.
        raise UserError(
            f"the key file {path} is damaged", "restore it from a backup, or remove it and init"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f"the key file {path} holds no Ed25519 key")
    return Identity(key)


def _write_private(path: Path, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
