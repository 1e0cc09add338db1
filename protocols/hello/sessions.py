"""Which sessions of a peer were heard of lately: two at once are one key on two machines. Pure.

A session is one life of a daemon; its records carry the same random number. Kept for each peer are
the newest record of at most SESSIONS_PER_PEER sessions, for LEASE_S since it came: who lives
greets again within that time.
"""

from __future__ import annotations

from collections import OrderedDict

from primed.p2p.network import PeerId
from primed.protocols.hello.messages import NodeRecord, SignedRecord
from primed.protocols.limits import LEASE_S, RECORDS_KEPT, SESSIONS_PER_PEER

_Heard = OrderedDict[bytes, tuple[float, int, SignedRecord]]  # session -> (when, sequence, record)


class Sessions:
    def __init__(self, lease_s: float = LEASE_S) -> None:
        self._lease_s = lease_s
        self._peers: OrderedDict[PeerId, _Heard] = OrderedDict()

    def observe(self, record: NodeRecord, signed: SignedRecord, now: float) -> bool:
        """Take in a record that its peer gave us itself. Whether it is the first of its session
        while another session of the peer is within its lease."""
        heard = self._peers.setdefault(record.peer, OrderedDict())
        self._peers.move_to_end(record.peer)
        self._drop_old(heard, now)
        known = heard.get(record.session)
        if known is None or record.sequence > known[1]:
            heard[record.session] = (now, record.sequence, signed)
            heard.move_to_end(record.session)
        while len(heard) > SESSIONS_PER_PEER:
            heard.popitem(last=False)
        while len(self._peers) > RECORDS_KEPT:
            self._peers.popitem(last=False)
        return known is None and len(heard) > 1

    def other(self, peer: PeerId, session: bytes, now: float) -> SignedRecord | None:
        """The newest record of another session of this peer, within its lease."""
        heard = self._peers.get(peer, OrderedDict())
        self._drop_old(heard, now)
        others = [kept for name, kept in heard.items() if name != session]
        return max(others, key=lambda kept: kept[0])[2] if others else None

    def _drop_old(self, heard: _Heard, now: float) -> None:
        for session in [s for s, (at, *_) in heard.items() if now - at > self._lease_s]:
            del heard[session]
