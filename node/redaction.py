"""Taking out of a text what others need not see: addresses, the user's folders, tokens, keys.

An address becomes the same tag everywhere in one bundle, so that a log can still be followed. Keys
are looked for in every form in which one could have got into a text.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from pathlib import Path

SAID = (
    "IP addresses and host names (the same one has the same tag everywhere; loopback stays)",
    "the home folder and the data directory's path",
    "values of anything called token, secret, password, passphrase or key",
    "private keys in PEM form",
)
_IP4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]|\.\d)")
_IP6 = re.compile(r"(?<![\w:])(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{0,4}(?![\w:])")
_NAME = re.compile(r"(/dns[46]?/)([^/\s\"',]+)")
_TOKEN = re.compile(
    r"(?i)([\w-]*(?:token|secret|password|passphrase|api_?key|private_?key)[\w-]*\"?\s*[=:]\s*\"?)"
    r"([^\s\"',}]+)"
)
_PEM = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*KEY-----|\Z)", re.DOTALL
)


class Redactor:
    def __init__(self, data_dir: Path, home: Path) -> None:
        self._folders = [(str(data_dir), "<data dir>"), (str(home), "~")]
        self._tags: dict[str, str] = {}

    def text(self, text: str) -> str:
        for folder, tag in self._folders:
            if len(folder) > 1:
                text = text.replace(folder, tag)
        text = _PEM.sub("<private key>", text)
        text = _TOKEN.sub(lambda match: f"{match[1]}<redacted>", text)
        text = _NAME.sub(lambda match: match[1] + self._tag("host", match[2]), text)
        text = _IP4.sub(self._ip, text)
        return _IP6.sub(self._ip, text)

    def _ip(self, match: re.Match[str]) -> str:
        try:
            address = ipaddress.ip_address(match[0])
        except ValueError:
            return match[0]
        if address.is_loopback or address.is_unspecified:
            return match[0]
        return self._tag("ip", str(address))

    def _tag(self, kind: str, value: str) -> str:
        return self._tags.setdefault(value, f"<{kind} {len(self._tags) + 1}>")


def forms_of(secret: bytes) -> set[bytes]:
    """Everything that a text or file with this secret in it would contain: raw, hex, base64 (at
    each of its three alignments, as inside PEM), and as Python would print it."""
    found = {secret, secret.hex().encode(), secret.hex().upper().encode()}
    found |= {repr(secret).encode()[2:-1], ", ".join(map(str, secret)).encode()}
    for shift in range(3):
        cut = base64.b64encode(bytes(shift) + secret)
        # Without the characters at the ends that neighbouring bytes have a part in.
        middle = cut[4 if shift else 0 : len(cut) - 4]
        found |= {middle, middle.replace(b"+", b"-").replace(b"/", b"_")}
    return found
