"""Addresses of peers, and which of them are worth dialling now. Pure, but for the file.

Knows three sorts: bootstrap peers (given, never forgotten), proven peers (answered once) and
hearsay (from the DHT or other peers; forgotten after a few failures). The best proven peers are
kept in a small JSON file, so that a restart can join while every bootstrap peer is down.
`now_s` is monotonic, `unix_s` wall time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from primed.p2p import addresses, limits, peerid


@dataclass
class Known:
    """One peer. `last_ok_unix_s` 0: never answered."""

    addresses: list[str] = field(default_factory=list)
    is_bootstrap: bool = False
    last_ok_unix_s: float = 0.0
    failures: int = 0
    retry_at_s: float = 0.0
    last_error: str = ""

    def is_hearsay(self) -> bool:
        return not self.is_bootstrap and not self.last_ok_unix_s


class PeerBook:
    def __init__(self, own: bytes, *, capacity: int = limits.PEERS_KNOWN) -> None:
        self._own = own
        self._capacity = capacity
        self._peers: dict[bytes, Known] = {}

    def add_bootstrap(self, peer: bytes, transport: str) -> None:
        self.learn(peer, [transport])
        if peer in self._peers:
            self._peers[peer].is_bootstrap = True

    def learn(self, peer: bytes, offered: Iterable[str]) -> None:
        """Add addresses, the newest first; what cannot be dialled is ignored."""
        fresh = [t for a in offered if (t := addresses.dialable(a))][: limits.ADDRESSES_PER_PEER]
        if peer == self._own or not peerid.is_peer_id(peer) or not fresh:
            return
        if peer not in self._peers and not self._make_room():
            return
        known = self._peers.setdefault(peer, Known())
        merged = list(dict.fromkeys(fresh + known.addresses))
        known.addresses = merged[: limits.ADDRESSES_PER_PEER]

    def addresses_of(self, peer: bytes) -> list[str]:
        """Other machines' addresses before loopback ones, which are often somebody else's."""
        known = self._peers.get(peer)
        return sorted(known.addresses, key=addresses.is_loopback) if known else []

    def connected(self, peer: bytes) -> None:
        """It answered; whether it is one of us is not known yet."""
        if known := self._peers.get(peer):
            known.failures, known.retry_at_s, known.last_error = 0, 0.0, ""

    def succeeded(self, peer: bytes, unix_s: float) -> None:
        """It answered and is one of us."""
        self.connected(peer)
        if known := self._peers.get(peer):
            known.last_ok_unix_s = unix_s

    def lost(self, peer: bytes, now_s: float) -> None:
        """A connection ended: try again, not at once."""
        if known := self._peers.get(peer):
            known.retry_at_s = now_s + limits.RETRY_FIRST_S / 2

    def failed(self, peer: bytes, now_s: float, error: str) -> None:
        """Back off 2, 4, 8 ... seconds; forget hearsay that never answers."""
        known = self._peers.get(peer)
        if known is None:
            return
        known.failures += 1
        known.last_error = error
        last = limits.RETRY_HEARSAY_LAST_S if known.is_hearsay() else limits.RETRY_LAST_S
        known.retry_at_s = now_s + min(last, limits.RETRY_FIRST_S * 2 ** min(known.failures - 1, 9))
        if known.is_hearsay() and known.failures >= limits.HEARSAY_FAILURES:
            del self._peers[peer]

    def due(self, without: Collection[bytes], now_s: float) -> list[bytes]:
        """Peers to dial now: bootstrap and proven ones first, then the least failed."""
        ready = [
            (known.is_hearsay(), known.failures, -known.last_ok_unix_s, peer)
            for peer, known in self._peers.items()
            if peer not in without and known.addresses and known.retry_at_s <= now_s
        ]
        return [peer for *_, peer in sorted(ready)]

    def hopes(self) -> dict[bytes, Known]:
        """Whom we could join by: bootstrap and proven peers."""
        return {peer: known for peer, known in self._peers.items() if not known.is_hearsay()}

    def _make_room(self) -> bool:
        if len(self._peers) < self._capacity:
            return True
        hearsay = [peer for peer, known in self._peers.items() if known.is_hearsay()]
        if not hearsay:
            return False
        del self._peers[max(hearsay, key=lambda peer: self._peers[peer].failures)]
        return True

    # The file: [{"peer": text, "addresses": [text], "last_ok": unix seconds}], newest first.

    def to_json(self) -> str:
        proven = [(k.last_ok_unix_s, p, k) for p, k in self._peers.items() if k.last_ok_unix_s]
        newest = sorted(proven, key=lambda entry: (-entry[0], entry[1]))[: limits.CACHE_PEERS]
        rows = [
            {"peer": peerid.to_text(peer), "addresses": known.addresses, "last_ok": int(at)}
            for at, peer, known in newest
            if known.addresses
        ]
        return json.dumps(rows, indent=1)

    def add_json(self, text: str) -> None:
        """Learn what `to_json` wrote. Raises ValueError if it did not."""
        try:
            rows = json.loads(text)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        if not isinstance(rows, list):
            raise ValueError("a list of peers is expected")  # noqa: TRY004  of the file
        for row in rows[: limits.CACHE_PEERS]:
            try:
                peer = peerid.from_text(str(row["peer"]))
                self.learn(peer, [str(address) for address in row["addresses"]])
                if peer in self._peers:
                    self._peers[peer].last_ok_unix_s = float(row["last_ok"])
            except (KeyError, TypeError) as error:
                raise ValueError(f"not a peer: {error!r}") from error


def read_cache(path: Path) -> str:
    """The file's text, "" if there is none. Raises OSError or ValueError if unreadable."""
    try:
        with path.open("rb") as file:
            content = file.read(limits.CACHE_FILE_BYTES + 1)
    except FileNotFoundError:
        return ""
    if len(content) > limits.CACHE_FILE_BYTES:
        raise ValueError("the peer cache is too large")
    return content.decode("utf-8")


def write_cache(path: Path, text: str) -> None:
    """Replace the file atomically. Not synced: it is only a hint."""
    draft = path.with_name(path.name + ".new")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)
