"""What made-up addresses cost: each is read once, and no more of them than are kept."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import pytest

from primed.p2p import limits, peerid
from primed.p2p.peerbook import PeerBook


def test_whom_to_dial_is_chosen_without_reading_all_addresses_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The overlay looks every second while peers are missing."""
    book = PeerBook(b"own")
    for number in range(50):
        peer = peerid.of_public_key(number.to_bytes(32, "big"))
        book.learn(peer, [f"/ip4/9.{n}.{number}.1/tcp/4001" for n in range(8)])
    chosen, read = book.due((), 1.0), list[object]()
    monkeypatch.setattr(ipaddress, "ip_address", read.append)
    assert book.due((), 1.0) == chosen and len(chosen) == 50
    assert not read


def test_of_the_addresses_that_a_peer_names_no_more_are_read_than_kept() -> None:
    def offered() -> Iterator[str]:
        for n in range(limits.ADDRESSES_PER_PEER):
            yield f"/ip4/9.{n}.1.1/tcp/4001"
        pytest.fail("reads on")

    book, peer = PeerBook(b"own"), peerid.of_public_key(bytes(32))
    book.learn(peer, offered())
    assert len(book.addresses_of(peer)) == limits.ADDRESSES_PER_PEER
