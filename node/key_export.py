"""An identity in a file that may travel: encrypted with a passphrase, checked when it comes back.

Format: JSON with the parameters of scrypt (RFC 7914), a nonce and the seed under
ChaCha20-Poly1305 (RFC 8439); everything else in the file is authenticated with it. The parameters
of a file are bounded before they are used, so that a bad one can neither hang nor fill the machine.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from msgspec import Meta

from primed.p2p import peerid
from primed.p2p.errors import UserError
from primed.p2p.identity import Identity

FORMAT: Literal["primed-identity/1"] = "primed-identity/1"
FILE_MAX_BYTES = 16 * 1024
PASSPHRASE_MIN_CHARS = 8
_N, _R, _P = 2**17, 8, 1  # 128 MiB and about half a second


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal["primed-identity/1"]
    peer: Annotated[str, Meta(max_length=128)]
    n: Annotated[int, Meta(ge=2**14, le=2**20)]  # with r <= 8: at most 1 GiB
    r: Annotated[int, Meta(ge=1, le=8)]
    p: Annotated[int, Meta(ge=1, le=4)]
    salt: Annotated[bytes, Meta(min_length=16, max_length=64)]
    nonce: Annotated[bytes, Meta(min_length=12, max_length=12)]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    header: _Header
    sealed: Annotated[bytes, Meta(min_length=48, max_length=48)]  # 32 bytes of seed, 16 of tag


def check_passphrase(passphrase: str) -> None:
    """Raises UserError for one that protects nothing."""
    if len(passphrase) < PASSPHRASE_MIN_CHARS:
        text = f"a passphrase has at least {PASSPHRASE_MIN_CHARS} characters"
        raise UserError(text, "several words are easy to keep and hard to guess")


def export(identity: Identity, path: Path, passphrase: str) -> None:
    """Write a new file of mode 0600. Raises UserError if there is one already."""
    check_passphrase(passphrase)
    text = peerid.to_text(identity.peer)
    header = _Header(FORMAT, text, _N, _R, _P, os.urandom(16), os.urandom(12))
    sealed = _cipher(header, passphrase).encrypt(header.nonce, identity.seed, _bound(header))
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(_File(header, sealed))) + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as error:
        raise UserError(f"{path} exists already", "give the name of a new file") from error
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def read(path: Path, passphrase: str) -> Identity:
    """The identity in an exported file. Raises UserError: not such a file, or wrong passphrase."""
    try:
        with path.open("rb") as opened:
            content = opened.read(FILE_MAX_BYTES)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    try:
        file = msgspec.json.decode(content, type=_File)
        cipher = _cipher(file.header, passphrase)
    except (msgspec.DecodeError, ValueError, RecursionError):
        text = f"{path} is not an exported identity"
        raise UserError(text, "such a file is made by primed id export") from None
    try:
        seed = cipher.decrypt(file.header.nonce, file.sealed, _bound(file.header))
    except InvalidTag:
        raise UserError("wrong passphrase, or the file was changed") from None
    return Identity.from_seed(seed)


def _cipher(header: _Header, passphrase: str) -> ChaCha20Poly1305:
    kdf = Scrypt(salt=header.salt, length=32, n=header.n, r=header.r, p=header.p)
    return ChaCha20Poly1305(kdf.derive(passphrase.encode()))


def _bound(header: _Header) -> bytes:
    return msgspec.json.encode(header)
