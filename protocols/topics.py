"""Names of the gossip topics: one for a run's events, one for the shards of each of its learners."""

from __future__ import annotations


def events_topic(run: bytes) -> str:
    return f"primed/{run.hex()}/events"


def shards_topic(run: bytes, learner: bytes) -> str:
    return f"primed/{run.hex()}/shards/{peer_text(learner)}"


_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def peer_text(peer: bytes) -> str:
    """A peer id as people read it: base58btc of the multihash (libp2p peer-ids specification)."""
    number, text = int.from_bytes(peer, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = _ALPHABET[digit] + text
    zeros = len(peer) - len(peer.lstrip(b"\x00"))
    return "1" * zeros + text
