"""Offers: messages that peers say they have (IHAVE) and that have not come to us. Pure.

What comes by itself soon is not asked for. Then one of those who offered it is asked, later another
one: an offer counts though it was made once, and a peer that offers and does not give holds up
nothing. Used by the router's heartbeat.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from libp2p.peer.id import ID

from primed.p2p import limits


@dataclass
class _Offer:
    ask_at: float
    first: ID  # who offered it first
    by: list[ID] = field(default_factory=list)  # not asked yet
    asked: set[ID] = field(default_factory=set)


class Offers:
    def __init__(self) -> None:
        self._offers: OrderedDict[bytes, _Offer] = OrderedDict()
        self._begun: Counter[ID] = Counter()  # messages that a peer offered first

    def __len__(self) -> int:
        return len(self._offers)

    def note(self, message_id: bytes, by: ID, now: float) -> None:
        """`by` has a message that we lack."""
        offer = self._offers.get(message_id)
        if offer is None:
            if self._begun[by] >= limits.GOSSIP_OFFERS_FIRST:
                return
            if len(self._offers) >= limits.GOSSIP_OFFERS:
                self._forget(next(iter(self._offers)))
            offer = self._offers[message_id] = _Offer(now + limits.IHAVE_PATIENCE_S, by)
            self._begun[by] += 1
        is_known = by in offer.by or by in offer.asked
        if not is_known and len(offer.by) < limits.GOSSIP_OFFERS_EACH:
            offer.by.append(by)

    def due(self, is_here: Callable[[bytes], bool], now: float) -> dict[ID, list[bytes]]:
        """Whom to ask for what, now. What has come meanwhile, or was asked of all, is forgotten."""
        asks: dict[ID, list[bytes]] = defaultdict(list)
        for message_id, offer in list(self._offers.items()):
            if is_here(message_id) or (not offer.by and now >= offer.ask_at):
                self._forget(message_id)
            elif now >= offer.ask_at:
                peer_id = offer.by.pop(0)
                if len(asks[peer_id]) < limits.GOSSIP_CONTROL_IDS:
                    asks[peer_id].append(message_id)
                offer.asked.add(peer_id)
                offer.ask_at = now + limits.IWANT_AGAIN_S
        return asks

    def arrived(self, message_id: bytes) -> set[ID]:
        """Whom we asked for it."""
        offer = self._offers.get(message_id)
        if offer is None:
            return set()
        self._forget(message_id)
        return offer.asked

    def _forget(self, message_id: bytes) -> None:
        first = self._offers.pop(message_id).first
        self._begun[first] -= 1
        if not self._begun[first]:
            del self._begun[first]
