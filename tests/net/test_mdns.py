"""Peers found on the local network: real multicast on loopback, under service names that no other test
has; what strangers say is bounded, and leads nowhere but to the link it was heard on."""

from __future__ import annotations

import secrets
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from ipaddress import IPv4Interface
from pathlib import Path

import pytest
import trio
import zeroconf
from hypothesis import given, settings
from hypothesis import strategies as st
from zeroconf._protocol.outgoing import DNSOutgoing

from primed.p2p import limits, peerid
from primed.p2p.bookfile import BookFile
from primed.p2p.host import Libp2pNetwork
from primed.p2p.identity import Identity
from primed.p2p.mdns import Mdns, records
from primed.p2p.mdns import service as mdns_service
from primed.p2p.peerbook import Kind

from .hosts import LOCAL, PROFILE, until

LINK = IPv4Interface("127.0.0.1/8")
PEER, OTHER = Identity.generate().peer, Identity.generate().peer
HERE = "/ip4/127.0.0.1/tcp/4101"


def text(*parts: str | bytes) -> bytes:
    raw = [part.encode() if isinstance(part, str) else part for part in parts]
    return b"".join(bytes([len(part)]) + part for part in raw)


def told(transport: str, peer: bytes = PEER, key: str = "dnsaddr") -> str:
    return f"{key}={transport}/p2p/{peerid.to_text(peer)}"


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch) -> str:
    """A service name of this test's own, for every network in it."""
    name = f"_t{secrets.token_hex(6)}._udp.local."
    monkeypatch.setattr(mdns_service, "SERVICE", name)
    return name


@asynccontextmanager
async def listener(name: str, heard: list[records.Hint]) -> AsyncIterator[Mdns]:
    """Somebody who listens at 4101."""
    mdns = Mdns(PEER, lambda: [HERE], lambda *hint: heard.append(hint), service=name)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mdns.run)
        await until(lambda: mdns.describe().startswith("announced"))
        yield mdns
        nursery.cancel_scope.cancel()


@contextmanager
def stranger() -> Iterator[zeroconf.Zeroconf]:
    """Another program that speaks mDNS on loopback."""
    speaker = zeroconf.Zeroconf(["127.0.0.1"])
    try:
        yield speaker
    finally:
        speaker.close()


def shout(name: str, *texts: bytes) -> None:
    """Send records that nobody asked for."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        sock.bind(("127.0.0.1", 0))
        for data in texts:
            out = DNSOutgoing(0x8400)
            record = zeroconf._dns.DNSText(f"{secrets.token_hex(8)}.{name}", 16, 1, 120, data)
            out.add_answer_at_time(record, 0)
            for packet in out.packets():
                sock.sendto(packet, ("224.0.0.251", 5353))


@pytest.mark.trio
async def test_two_nodes_that_know_nobody_find_each_other(name: str, tmp_path: Path) -> None:
    path = tmp_path / "peers.db"
    one = Libp2pNetwork(Identity.generate(), profile=PROFILE, book_path=path, mdns=True)
    two = Libp2pNetwork(Identity.generate(), profile=PROFILE, mdns=True)
    assert one.local_discovery == "not started"
    async with one.running([LOCAL], []), two.running([LOCAL], []):
        await until(lambda: any(info.peer == two.peer for info in one.peers()), 30.0)
        await until(lambda: "; 1 peer heard" in one.local_discovery)
        assert one.local_discovery == "announced on 127.0.0.1; 1 peer heard"
    assert one.local_discovery == "not started"
    rows = BookFile(path).load()
    assert {row.source for row in rows.addresses if row.peer == two.peer} == {"mdns"}
    assert not [thread for thread in threading.enumerate() if "zeroconf" in thread.name]


@pytest.mark.trio
async def test_a_node_is_silent_unless_it_is_told_to_speak() -> None:
    quiet = Libp2pNetwork(Identity.generate(), profile=PROFILE)
    async with quiet.running([LOCAL], []):
        assert quiet.local_discovery == "off" and quiet._mdns is None
        assert quiet.port_mapping == "off" and quiet._access._mapper is None


@pytest.mark.trio
async def test_an_address_that_nobody_holds_is_only_a_hint(name: str) -> None:
    """The handshake decides: a record in another peer's name makes no peer of whoever sent it."""
    victim = Libp2pNetwork(Identity.generate(), profile=PROFILE, mdns=True)
    other = Libp2pNetwork(Identity.generate(), profile=PROFILE)
    async with other.running([LOCAL], []), victim.running([LOCAL], []):
        await until(lambda: victim.local_discovery.startswith("announced"))
        transport = other.listen_addresses()[0].rpartition("/p2p/")[0]
        shout(name, text(told(transport, OTHER)))
        await until(lambda: "1 peer heard" in victim.local_discovery)
        entry = victim._book._peers[OTHER]
        await until(lambda: entry.failures > 0)
        assert entry.kind is Kind.HEARSAY and [
            known.source for known in entry.addresses.values()
        ] == ["mdns"]
        assert not victim.peers() and not victim.traffic.handler_errors


@pytest.mark.trio
async def test_what_strangers_shout_is_heeded_slowly(name: str) -> None:
    heard: list[records.Hint] = []
    async with listener(name, heard) as mdns:
        peers = [Identity.generate().peer for _ in range(3 * int(limits.MDNS_HINTS))]
        shout(name, *(text(told(f"/ip4/127.0.0.9/tcp/{n + 1}", p)) for n, p in enumerate(peers)))
        await until(lambda: len({peer for peer, _ in heard}) >= limits.MDNS_HINTS / 2)
        await trio.sleep(0.5)
        assert len(heard) <= limits.MDNS_HINTS + 10 * limits.MDNS_HINTS_PER_S
        assert "heard" in mdns.describe()


@pytest.mark.trio
async def test_packets_of_any_bytes_end_nothing(name: str) -> None:
    heard: list[records.Hint] = []
    async with listener(name, heard):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            interface = socket.inet_aton("127.0.0.1")
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface)
            sock.bind(("127.0.0.1", 0))
            for size in (0, 1, 11, 12, 100, 1000, 9000):
                for _ in range(10):
                    sock.sendto(secrets.token_bytes(size), ("224.0.0.251", 5353))
        shout(
            name, b"\xff", b"\x05a", text("dnsaddr=", "x=y", b"\xff" * 255), text(told(HERE, OTHER))
        )
        await until(lambda: heard == [(OTHER, (HERE,))])


@pytest.mark.trio
async def test_a_record_in_the_words_of_other_libraries_is_understood(name: str) -> None:
    heard: list[records.Hint] = []
    async with listener(name, heard):
        with stranger() as speaker:
            info = zeroconf.ServiceInfo(
                name,
                f"peer.{name}",
                port=4001,
                properties={
                    "dnsaddr": told(HERE, OTHER).partition("=")[2],
                    "dnsaddr2": told("/ip4/127.0.0.2/tcp/2", OTHER).partition("=")[2],
                },
                server="peer.local.",
                parsed_addresses=["127.0.0.1"],
            )
            await trio.to_thread.run_sync(
                lambda: speaker.register_service(info, cooperating_responders=True)
            )
            await until(lambda: bool(heard))
    assert heard[0] == (OTHER, (HERE, "/ip4/127.0.0.2/tcp/2"))


@pytest.mark.trio
async def test_why_nothing_is_spoken_is_said(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    async def state(*listening: str) -> str:
        mdns = Mdns(PEER, lambda: list(listening), lambda *_: None, service=name)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mdns.run)
            await until(lambda: mdns.describe() != "not started")
            nursery.cancel_scope.cancel()
            return mdns.describe()

    assert await state() == "off: it listens on no local network"
    assert await state("/ip6/::1/tcp/1") == "off: it listens on no local network"
    public = [IPv4Interface("8.8.4.4/24")]
    monkeypatch.setattr(mdns_service, "links", lambda _: public)
    assert await state(HERE) == "off: this machine has a public address, 8.8.4.4"
    monkeypatch.setattr(mdns_service, "links", lambda _: [LINK])
    monkeypatch.setattr(limits, "MDNS_START_S", 0.0)
    assert await state(HERE) == "failed: it did not start in time"


def test_only_addresses_on_our_own_links_are_hints() -> None:
    def heard(*parts: str | bytes) -> records.Hint | None:
        return records.decode(text(*parts), [LINK])

    assert heard(told(HERE), told("/ip4/127.9.9.9/tcp/1")) == (PEER, (HERE, "/ip4/127.9.9.9/tcp/1"))
    relayed = f"{HERE}/p2p/{peerid.to_text(OTHER)}/p2p-circuit"
    for elsewhere in ("/ip4/8.8.8.8/tcp/1", "/dns4/localhost/tcp/1", "/ip6/::1/tcp/1", relayed):
        assert heard(told(elsewhere)) is None
        assert heard(told(elsewhere), told(HERE)) == (PEER, (HERE,))
    assert heard(told(HERE), told(HERE, OTHER)) is None  # whose is it?
    assert heard(f"dnsaddr={HERE}") is None
    assert heard(told(HERE, key="dnsaddrx"), told(HERE, key="address")) is None
    many = heard(*(told(f"/ip4/127.0.0.1/tcp/{port}") for port in range(1, 100)))
    assert many is not None and len(many[1]) == limits.ADDRESSES_PER_PEER


@given(st.binary(max_size=1000))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_hint_or_none(data: bytes) -> None:
    for prefix in (b"", text(told(HERE))):
        found = records.decode(prefix + data, [LINK])
        assert found is None or len(found[1]) <= limits.ADDRESSES_PER_PEER


def test_what_is_told_is_what_is_heard() -> None:
    transports = tuple(f"/ip4/127.0.0.1/tcp/{port}" for port in (1, 2, 65535))
    assert records.decode(records.encode(PEER, transports), [LINK]) == (PEER, transports)
