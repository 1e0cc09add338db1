"""Addresses of peers, and which of them are worth dialling now. Pure: times are passed in.

Knows three kinds of peers: bootstrap peers (given, never forgotten), proven peers (answered once
and are of ours; forgotten after days of silence) and hearsay (from the DHT or other peers; forgotten
after a few failures). Of each address it knows who told it, when, and when we last connected by it.

Nobody may crowd out the rest: the kinds take turns at being dialled, a subnet and a network have so
many slots (`Profile`), and one source of hearsay at most half of the book; in a full one so have the
proven peers. In a full subnet an address that we connected by takes the slot
of one that is only claimed, and nothing else does. `now_s` is monotonic, `unix_s` wall time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import islice
from typing import NamedTuple

from primed.p2p import addresses, limits, peerid

GIVEN, TOLD, FROM_DHT, FROM_MDNS = "given", "told", "dht", "mdns"  # who told an address
_SEEN_STEP_S = 600.0  # how exactly we remember when an address was last told
_LONG_SILENT = 5  # failures: half a minute and more


class Kind(IntEnum):
    BOOTSTRAP = 0
    PROVEN = 1
    HEARSAY = 2


@dataclass
class Known:
    """One address. `worked_unix_s` 0: we never connected by it."""

    source: str
    seen_unix_s: float = 0.0
    worked_unix_s: float = 0.0


@dataclass
class Entry:
    """One peer. `last_ok_unix_s` 0: it never answered. `record`: what it signed about itself; only the
    layer above reads it."""

    addresses: dict[str, Known] = field(default_factory=dict)  # newest last
    is_bootstrap: bool = False
    last_ok_unix_s: float = 0.0
    record: bytes = b""
    record_unix_s: float = 0.0  # when it was kept
    failures: int = 0
    failed_at_s: float = 0.0
    retry_at_s: float = 0.0
    probed_at_s: float = 0.0
    last_error: str = ""

    @property
    def kind(self) -> Kind:
        if self.is_bootstrap:
            return Kind.BOOTSTRAP
        return Kind.PROVEN if self.last_ok_unix_s else Kind.HEARSAY


class PeerRow(NamedTuple):
    """What a file keeps of a peer; the first field is the key."""

    peer: bytes
    last_ok_unix_s: float
    record: bytes


class AddressRow(NamedTuple):
    """What a file keeps of an address; the first two fields are the key."""

    peer: bytes
    address: str
    source: str
    seen_unix_s: float
    worked_unix_s: float


BookRows = tuple[set[PeerRow], set[AddressRow]]


class PeerBook:
    def __init__(
        self,
        own: bytes,
        *,
        profile: limits.Profile = limits.HOME,
        capacity: int = limits.PEERS_KNOWN,
    ) -> None:
        self._own = own
        self._profile = profile
        self._capacity = capacity
        self._peers: dict[bytes, Entry] = {}
        self._crowd: Counter[str] = Counter()  # addresses by subnet and by network
        self._failed_at_s = dict.fromkeys(Kind, 0.0)  # the last dial of each kind that failed

    # --- learning

    def add_bootstrap(self, peer: bytes, transport: str) -> None:
        self.learn(peer, [transport], GIVEN)
        if peer in self._peers:
            self._peers[peer].is_bootstrap = True

    def learn(
        self, peer: bytes, offered: Iterable[str], source: str = TOLD, unix_s: float = 0.0
    ) -> None:
        """Add addresses; what cannot be dialled, or finds no slot, is ignored."""
        usable = (t for a in offered if (t := addresses.dialable(a)))
        fresh = list(islice(usable, limits.ADDRESSES_PER_PEER))
        if peer == self._own or not peerid.is_peer_id(peer) or not fresh:
            return
        entry = self._peers.get(peer)
        if entry is None:
            if source != GIVEN and not self._make_room(source):
                return
            entry = Entry()
        for transport in reversed(fresh):
            self._add(entry, transport, source, unix_s)
        if entry.addresses:
            self._peers[peer] = entry

    def _add(self, entry: Entry, transport: str, source: str, unix_s: float) -> None:
        if known := entry.addresses.pop(transport, None):
            entry.addresses[transport] = known  # newest last
            if unix_s >= known.seen_unix_s + _SEEN_STEP_S:
                known.seen_unix_s = unix_s
            return
        if source != GIVEN and not self._has_slot(transport):
            return
        if len(entry.addresses) >= limits.ADDRESSES_PER_PEER:
            self._drop_address(entry, min(entry.addresses, key=_worth(entry)))
        entry.addresses[transport] = Known(source, unix_s)
        self._crowd.update(addresses.networks(transport))

    def worked(self, peer: bytes, transport: str, unix_s: float) -> None:
        """We connected to the peer by this address: it gets a slot even in a full subnet."""
        if not (address := addresses.dialable(transport)) or peer == self._own:
            return
        held = peer in self._peers and address in self._peers[peer].addresses
        if not held and not self._has_slot(address):
            self._evict_claim(address)
        self.learn(peer, [address], TOLD, unix_s)
        if (entry := self._peers.get(peer)) and (known := entry.addresses.get(address)):
            known.worked_unix_s = unix_s

    def keep_record(self, peer: bytes, record: bytes, unix_s: float) -> None:
        """Not each of them: peers sign one a minute, and a file has to take it."""
        if (entry := self._peers.get(peer)) is None or len(record) > limits.RECORD_BYTES:
            return
        if not entry.record or unix_s >= entry.record_unix_s + _SEEN_STEP_S:
            entry.record, entry.record_unix_s = record, unix_s

    def records(self) -> dict[bytes, bytes]:
        return {peer: entry.record for peer, entry in self._peers.items() if entry.record}

    # --- what became of them

    def connected(self, peer: bytes) -> None:
        """It answered; whether it is one of us is not known yet. If one that we count on had been
        silent for long, the fault may have been ours: then none of those waits any longer."""
        if (entry := self._peers.get(peer)) is None:
            return
        if entry.failures >= _LONG_SILENT and peer in (hopes := self.hopes()):
            for hope in hopes.values():
                hope.retry_at_s = 0.0
        entry.failures, entry.retry_at_s, entry.last_error = 0, 0.0, ""

    def succeeded(self, peer: bytes, unix_s: float) -> None:
        """It answered and is one of us."""
        self.connected(peer)
        if entry := self._peers.get(peer):
            entry.last_ok_unix_s = unix_s

    def lost(self, peer: bytes, now_s: float) -> None:
        """A connection ended: try again, not at once."""
        if entry := self._peers.get(peer):
            entry.retry_at_s = now_s + limits.RETRY_FIRST_S / 2

    def failed(self, peer: bytes, now_s: float, error: str) -> None:
        """Back off 2, 4, 8 ... seconds; forget hearsay that never answers, and proven peers silent
        for days in which others answered (not if nobody did: then the fault may be ours)."""
        entry = self._peers.get(peer)
        if entry is None:
            return
        entry.failures += 1
        entry.last_error, entry.failed_at_s = error, now_s
        self._failed_at_s[entry.kind] = now_s
        pause_s = limits.RETRY_FIRST_S * 2 ** min(entry.failures - 1, 20)
        entry.retry_at_s = now_s + min(_RETRY_LAST_S[entry.kind], pause_s)
        if entry.failures >= _FAILURES[entry.kind] and not self._is_missed(entry):
            self._forget(peer)

    def _is_missed(self, entry: Entry) -> bool:
        """A proven peer that answered when, or not long before, the last one did."""
        newest_s = max(other.last_ok_unix_s for other in self._peers.values())
        return bool(entry.last_ok_unix_s > newest_s - limits.PROVEN_KEPT_S and entry.last_ok_unix_s)

    # --- choosing

    def addresses_of(self, peer: bytes) -> list[str]:
        """Best first: those that worked, then the newest; other machines' before loopback ones,
        which are often somebody else's."""
        entry = self._peers.get(peer)
        if entry is None:
            return []
        newest_first = reversed(entry.addresses)
        return sorted(
            newest_first,
            key=lambda a: (
                bool(addresses.relay_of(a)),
                addresses.is_loopback(a),
                -entry.addresses[a].worked_unix_s,
            ),
        )

    def due(self, without: Collection[bytes], now_s: float, *, unlike: bool = False) -> list[bytes]:
        """Peers to dial now. One of each kind in turn, first of the kind that failed longest ago:
        however many of one kind are silent, the others are tried as well. Of a kind, first those
        from networks that the peers we have (`without`) are not from, then the least failed.
        unlike: only those from such networks."""
        present = Counter(n for peer in without for n in self._networks_of(peer))
        ready: dict[Kind, list[tuple[int, int, float, bytes]]] = {kind: [] for kind in Kind}
        for peer, entry in self._peers.items():
            if peer not in without and entry.addresses and entry.retry_at_s <= now_s:
                crowd = min((present[n] for n in self._networks_of(peer)), default=0)
                if not (unlike and crowd):
                    ready[entry.kind].append((crowd, entry.failures, -entry.last_ok_unix_s, peer))
        turns = [
            (place, self._failed_at_s[kind], kind, peer)
            for kind, of_kind in ready.items()
            for place, (*_, peer) in enumerate(sorted(of_kind))
        ]
        return [peer for *_, peer in sorted(turns)]

    def to_probe(self, without: Collection[bytes], now_s: float) -> bytes | None:
        """A bootstrap peer (or, without any, a proven one) to look in on, so that two halves of
        a swarm that lost each other meet again; the one not probed for the longest time."""
        hopes = self.hopes()
        given = {peer: entry for peer, entry in hopes.items() if entry.is_bootstrap}
        among = [peer for peer in given or hopes if peer not in without]
        if not among:
            return None
        chosen = min(among, key=lambda peer: (hopes[peer].probed_at_s, peer))
        hopes[chosen].probed_at_s = now_s
        return chosen

    def hopes(self) -> dict[bytes, Entry]:
        """Whom we could join by: bootstrap and proven peers."""
        return {p: entry for p, entry in self._peers.items() if entry.kind is not Kind.HEARSAY}

    # --- bounds

    def _networks_of(self, peer: bytes) -> set[str]:
        entry = self._peers.get(peer)
        return {addresses.networks(a)[1] for a in entry.addresses} if entry else set()

    def _has_slot(self, transport: str) -> bool:
        subnet, network = addresses.networks(transport)
        return (
            self._crowd[subnet] < self._profile.known_per_subnet
            and self._crowd[network] < self._profile.known_per_network
        )

    def _evict_claim(self, transport: str) -> None:
        """Free a slot of this subnet from the oldest address that never worked for us."""
        subnet, network = addresses.networks(transport)
        tight = 0 if self._crowd[subnet] >= self._profile.known_per_subnet else 1
        claims = [
            (known.seen_unix_s, peer, address)
            for peer, entry in self._peers.items()
            for address, known in entry.addresses.items()
            if not known.worked_unix_s
            and known.source != GIVEN
            and addresses.networks(address)[tight] == (subnet, network)[tight]
        ]
        if claims:
            _, peer, address = min(claims)
            self._drop_address(self._peers[peer], address)
            if not self._peers[peer].addresses:
                del self._peers[peer]

    def _make_room(self, source: str) -> bool:
        """For a peer that we hear of: of all kinds those that failed most make room, proven ones if
        they have more than half of the book."""
        hearsay, proven = self._all(Kind.HEARSAY), self._all(Kind.PROVEN)
        same = [p for p in hearsay if any(k.source == source for k in self._of(p))]
        quota = min(limits.KNOWN_PER_SOURCE, self._capacity // 2)
        if len(self._peers) < self._capacity and len(same) < quota:
            return True
        others = proven if len(proven) > self._capacity // 2 else hearsay
        worst = max(same if len(same) >= quota else others, key=self._uselessness, default=None)
        if worst is None or not (self._peers[worst].failures or len(same) < quota):
            return False  # untried hearsay does not displace untried hearsay of its kind
        self._forget(worst)
        return True

    def _all(self, kind: Kind) -> list[bytes]:
        return [peer for peer, entry in self._peers.items() if entry.kind is kind]

    def _uselessness(self, peer: bytes) -> tuple[int, float]:
        return self._peers[peer].failures, -self._peers[peer].last_ok_unix_s

    def _of(self, peer: bytes) -> Iterable[Known]:
        return self._peers[peer].addresses.values()

    def _forget(self, peer: bytes) -> None:
        entry = self._peers.pop(peer)
        for address in list(entry.addresses):
            self._drop_address(entry, address)

    def _drop_address(self, entry: Entry, address: str) -> None:
        del entry.addresses[address]
        self._crowd.subtract(addresses.networks(address))

    # --- for the file

    def rows(self) -> BookRows:
        peers = {PeerRow(p, e.last_ok_unix_s, e.record) for p, e in self._peers.items()}
        known = {
            AddressRow(peer, address, k.source, k.seen_unix_s, k.worked_unix_s)
            for peer, entry in self._peers.items()
            for address, k in entry.addresses.items()
        }
        return peers, known

    def add_rows(self, peers: Iterable[PeerRow], known: Iterable[AddressRow]) -> None:
        """Learn what `rows` told in an earlier life; those that worked have the first choice."""
        for row in sorted(known, key=lambda r: (-r.worked_unix_s, -r.seen_unix_s, r)):
            source = TOLD if row.source == GIVEN else row.source  # given in an earlier life
            if row.worked_unix_s:
                self.worked(row.peer, row.address, row.worked_unix_s)
            else:
                self.learn(row.peer, [row.address], source, row.seen_unix_s)
        for peer in peers:
            if entry := self._peers.get(peer.peer):
                entry.last_ok_unix_s = peer.last_ok_unix_s
                entry.record = peer.record


_RETRY_LAST_S = {
    Kind.BOOTSTRAP: limits.RETRY_LAST_S,
    Kind.PROVEN: limits.RETRY_PROVEN_LAST_S,
    Kind.HEARSAY: limits.RETRY_HEARSAY_LAST_S,
}
_FAILURES = {
    Kind.BOOTSTRAP: math.inf,
    Kind.PROVEN: limits.PROVEN_FAILURES,
    Kind.HEARSAY: limits.HEARSAY_FAILURES,
}


def _worth(entry: Entry) -> Callable[[str], tuple[bool, float, int]]:
    """Order of an entry's addresses, the least useful first."""
    order = {address: place for place, address in enumerate(entry.addresses)}
    return lambda address: (
        entry.addresses[address].source == GIVEN,
        entry.addresses[address].worked_unix_s,
        order[address],
    )
