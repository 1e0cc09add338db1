"""Hostile and broken peers on the bulk lane (scenarios 3, 4, 6 and 24): every one of them is cut in
time, named where it has a name, and honest peers are served all the while."""

from __future__ import annotations

import random
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
import trio
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID
from libp2p.security.tls.certificate import (
    LIBP2P_CERT_PREFIX,
    add_libp2p_extension,
    create_cert_template,
    generate_certificate,
)

from primed.p2p import limits
from primed.p2p.bulk import PROTOCOL, wire
from primed.p2p.bulk.certificate import Contexts
from primed.p2p.errors import NoLane, RemoteError
from primed.p2p.host import Libp2pNetwork
from primed.p2p.identity import Identity
from primed.p2p.network import BulkChannel, Stream

from ..net.bulk_talk import (
    PURPOSE,
    fetch,
    get_bytes,
    nothing_left_behind,
    ready,
    serve_bytes,
    sockets,
)
from ..net.hosts import LOCAL, new_network, started, until
from .bulk_proxy import Harm, bit_errors, bulk_proxy

pytestmark = pytest.mark.trio
MIB = 1 << 20


class Trio:
    """A victim that serves, an honest peer, and an attacker that is connected as well."""

    def __init__(self) -> None:
        self.attacker_identity = Identity.generate()
        self.victim, self.honest = new_network(), new_network()
        self.attacker = new_network(identity=self.attacker_identity)
        self.victim.bulk.serve(PURPOSE, serve_bytes)

    @property
    def port(self) -> int:
        return int(self.victim.listen_addresses()[0].split("/")[4])

    def score(self, network: Libp2pNetwork) -> float:
        return next(i.score for i in self.victim.peers() if i.peer == network.peer)

    async def ticket(self) -> bytes:
        """One for the attacker."""
        stream = await self.attacker.open_stream(self.victim.peer, PROTOCOL)
        await wire.send(stream, wire.Ask(PURPOSE, "asker", b""))
        answer = await wire.receive(stream, wire.answers)
        await stream.close()
        assert isinstance(answer, wire.Granted), answer
        return answer.ticket

    async def show(self, ticket: bytes, context: ssl.SSLContext) -> bool:
        """Whether the victim takes this ticket from a socket with this TLS context."""
        return await trio.to_thread.run_sync(_is_taken, self.port, ticket, context)


def _is_taken(port: int, ticket: bytes, context: ssl.SSLContext) -> bool:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as raw,
        suppress(OSError),
        context.wrap_socket(raw) as tls,
    ):
        tls.sendall(ticket)
        return tls.recv(1) == b"\x01"
    return False


@asynccontextmanager
async def siege() -> AsyncIterator[Trio]:
    trio_of = Trio()
    async with started(trio_of.victim, trio_of.honest, trio_of.attacker):
        await ready(trio_of.victim, trio_of.honest)
        await ready(trio_of.victim, trio_of.attacker)
        yield trio_of
        trio_of.victim.bulk.serve(PURPOSE, serve_bytes)
        await until(lambda: not trio_of.honest.bulk.why_not(trio_of.victim.peer))
        await fetch(trio_of.honest, trio_of.victim.peer)
        assert trio_of.score(trio_of.honest) > -2  # at most a ticket that it could not use
        assert trio_of.victim.traffic.handler_errors == 0


async def test_a_ticket_works_once_and_reuse_is_charged() -> None:
    async with siege() as s:
        context = Contexts(s.attacker_identity).client
        ticket = await s.ticket()
        assert await s.show(ticket, context)
        assert s.score(s.attacker) == 0
        assert not await s.show(ticket, context)  # nobody is invited: cut unread
        assert s.score(s.attacker) == 0
        await s.ticket()
        assert not await s.show(ticket, context)
        await until(lambda: s.score(s.attacker) < 0)


async def test_a_stolen_ticket_is_refused_burnt_and_charged_to_the_thief() -> None:
    async with siege() as s:
        thief = Contexts(s.honest._identity).client  # a peer that is not the ticket's
        ticket = await s.ticket()
        charged: list[bytes] = []
        penalise = s.victim.penalise
        s.victim.bulk._owner.penalise = (  # type: ignore[method-assign]
            lambda peer, points, reason: charged.append(peer)
        )
        assert not await s.show(ticket, thief)
        assert not await s.show(ticket, Contexts(s.attacker_identity).client)
        await until(lambda: charged == [s.honest.peer])
        s.victim.bulk._owner.penalise = penalise  # type: ignore[method-assign]


async def test_an_expired_ticket_is_refused_and_not_coming_is_charged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with siege() as s:
        monkeypatch.setattr(limits, "BULK_TICKET_S", 0.2)
        ticket = await s.ticket()
        await trio.sleep(0.3)
        assert not await s.show(ticket, Contexts(s.attacker_identity).client)
        await s.ticket()
        await until(lambda: s.score(s.attacker) < 0)


def _context(pems: tuple[str, str] | None, folder: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if pems is not None:
        with open(f"{folder}/pem", "w") as file:
            file.write("\n".join(pems))
        context.load_cert_chain(f"{folder}/pem")
    return context


def _forged(victim_of_theft: Identity) -> tuple[str, str]:
    """A certificate that names somebody else's key, signed by our own."""
    theirs, ours = create_new_key_pair(victim_of_theft.seed), create_new_key_pair()
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    signature = ours.private_key.sign(LIBP2P_CERT_PREFIX + public)
    builder = create_cert_template().public_key(key.public_key())
    builder = add_libp2p_extension(builder, theirs.public_key, signature)
    return _pems(builder.sign(key, hashes.SHA256()), key)


def _plain() -> tuple[str, str]:
    """A certificate as any web server has one."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = create_cert_template().public_key(key.public_key())
    return _pems(builder.sign(key, hashes.SHA256()), key)


def _pems(certificate: object, key: ec.EllipticCurvePrivateKey) -> tuple[str, str]:
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(pem).decode(), private.decode()  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["none", "plain", "forged", "another peer's"])
async def test_who_cannot_prove_to_be_the_tickets_peer_is_cut(
    kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with siege() as s:
        stranger = create_new_key_pair().private_key
        pems = {
            "none": None,
            "plain": _plain(),
            "forged": _forged(s.attacker_identity),
            "another peer's": generate_certificate(stranger, create_cert_template()),
        }[kind]
        refused = s.victim.traffic.extra.get("bulk_sockets_refused", 0)
        context = _context(pems, str(tmp_path_factory.mktemp("pem")))
        assert not await s.show(await s.ticket(), context)
        await until(lambda: s.victim.traffic.extra["bulk_sockets_refused"] > refused)


async def test_another_host_at_the_address_is_found_out_by_the_dialler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "BULK_TICKET_S", 1.0)
    async with siege() as s:
        s.honest._stack.swarm._dialled[_id(s.victim)] = "/".join(  # type: ignore[union-attr]
            s.attacker.listen_addresses()[0].split("/")[:5]
        )
        s.attacker.bulk._tickets.issue(
            s.honest.peer, PURPOSE, lambda c: c.close(), trio.current_time(), is_served=False
        )
        with pytest.raises(NoLane, match="another peer answers"):
            await s.honest.bulk.converse(s.victim.peer, PURPOSE, get_bytes(1))
        s.honest._stack.swarm._dialled[_id(s.victim)] = "/".join(  # type: ignore[union-attr]
            s.victim.listen_addresses()[0].split("/")[:5]
        )
        await until(lambda: not len(s.victim.bulk._tickets))


def _id(network: Libp2pNetwork) -> ID:
    return ID(network.peer)


async def _opened(port: int, first: bytes) -> trio.SocketStream:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    with suppress(trio.BrokenResourceError):
        await stream.send_all(first)
    return stream


async def _seconds_until_closed(stream: trio.SocketStream) -> float:
    began = time.monotonic()
    with trio.fail_after(30), suppress(trio.BrokenResourceError):
        while await stream.receive_some(1000):
            pass
    await trio.aclose_forcefully(stream)
    return time.monotonic() - began


HELLO_START = b"\x16\x03\x01\x02\x00\x01"  # a ClientHello that does not go on


async def test_uninvited_sockets_are_closed_unread() -> None:
    async with siege() as s:
        for first in (HELLO_START, b"\x16" + random.Random(1).randbytes(500)):
            assert await _seconds_until_closed(await _opened(s.port, first)) < 3.0


@pytest.mark.parametrize("first", [HELLO_START, b"\x16" + bytes(range(256)), b"GET / HTTP/1.1\r\n"])
async def test_garbage_is_cut_while_a_ticket_is_out(
    first: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BULK_HANDSHAKE_S", 0.5)
    monkeypatch.setattr(limits, "UPGRADE_S", 0.5)
    async with siege() as s:
        await s.ticket()
        before = sockets()
        assert await _seconds_until_closed(await _opened(s.port, first)) < 5.0
        await until(lambda: sockets() <= before)


async def test_scenario_4_slow_handshakes_end_at_the_deadline_and_are_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "BULK_HANDSHAKE_S", 0.6)
    monkeypatch.setattr(limits, "BULK_TICKET_S", 3.0)
    async with siege() as s:
        before = sockets()
        await s.ticket()
        took: list[float] = []

        async def drip() -> None:
            stream = await _opened(s.port, HELLO_START)
            async with trio.open_nursery() as nursery:

                async def feed() -> None:
                    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                        while True:
                            await stream.send_all(b"\x00")
                            await trio.sleep(0.2)

                nursery.start_soon(feed)
                took.append(await _seconds_until_closed(stream))
                nursery.cancel_scope.cancel()

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for _ in range(40):
                    nursery.start_soon(drip)
        lasted = [seconds for seconds in took if seconds > 0.3]
        assert 0 < len(lasted) <= limits.BULK_HANDSHAKES
        assert max(took) < 4.0  # and not for as long as they drip
        assert s.victim.traffic.extra["bulk_sockets_refused"] >= 40
        await until(lambda: sockets() <= before)


@asynccontextmanager
async def proxied(harm: Harm) -> AsyncIterator[tuple[Libp2pNetwork, Libp2pNetwork]]:
    """A host that serves and one that dialled it, with harm to the bulk connections between."""
    a, b = new_network(), new_network()
    a.bulk.serve(PURPOSE, serve_bytes)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(a.running([LOCAL], []))
        proxy = await stack.enter_async_context(bulk_proxy(a.listen_addresses()[0]))
        await stack.enter_async_context(b.running([LOCAL], []))
        await b.connect(proxy.address)
        await ready(a, b)
        proxy.harm = harm
        yield a, b


async def test_scenario_3_a_half_open_connection_ends_by_the_deadline_on_both_sides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "BULK_IDLE_S", 1.0)
    passed = 0

    def swallow(chunk: bytes) -> bytes | None:
        nonlocal passed
        passed += len(chunk)
        return chunk if passed < 300_000 else None

    with nothing_left_behind():
        async with proxied(swallow) as (a, b):
            began = time.monotonic()
            with pytest.raises(RemoteError, match="no byte in 1 s"):
                await b.bulk.converse(a.peer, PURPOSE, get_bytes(64 * MIB))
            assert time.monotonic() - began < 6.0
            assert "no byte" in b.bulk.describe(a.peer)[1]
            await until(lambda: "served now" not in a.bulk.describe(b.peer)[1])


async def test_a_restarted_asker_gets_its_place_back_at_once() -> None:
    async with siege() as s:
        stuck = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def wait(channel: BulkChannel) -> None:
            token.run_sync_soon(stuck.set)
            channel.recv_into(bytearray(1))

        s.victim.bulk.serve(PURPOSE, wait)
        context = Contexts(s.attacker_identity).client
        with socket.create_connection(("127.0.0.1", s.port)) as raw:
            ticket = await s.ticket()
            tls = await trio.to_thread.run_sync(context.wrap_socket, raw)
            tls.sendall(ticket)
            await stuck.wait()  # and now its process hangs, or its host is gone
            s.victim.bulk.serve(PURPOSE, serve_bytes)
            await fetch(s.attacker, s.victim.peer)
            tls.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"\xff\xff\xff\xff",  # 4 GiB, it says
        b"\x00\x00\x00\x00",
        b"\x00\x00\x00\x05\x93\xa3ask",
        b"\x00\x00\x00\x10" + b"\x81" * 16,
        b"\x00\x00\x03\xe8" + b"\x91" * 1000,
        b"\x00\x00\x00\x10\x94\xa3ask\xa1x\xa5asker\xc4\x01x",
    ],
)
async def test_malformed_questions_are_charged(sent: bytes) -> None:
    async with siege() as s:
        stream = await s.attacker.open_stream(s.victim.peer, PROTOCOL)
        await stream.write_all(sent)
        await until(lambda: s.score(s.attacker) < 0)
        await stream.reset()


@pytest.mark.parametrize(
    "answer",
    [
        wire.Granted(b""),
        wire.Granted(b"short"),
        wire.Refused("x" * 200, 600_000),
        wire.Ask(PURPOSE, "asker", b""),
    ],
)
async def test_strange_answers_mean_streams(answer: wire.Granted) -> None:
    async def reply(stream: Stream) -> None:
        await wire.receive(stream, wire.asks)
        await wire.send(stream, answer)

    liar, asker = new_network(), new_network()
    liar.handle(PROTOCOL, reply)
    async with started(liar, asker):
        await ready(liar, asker)
        for one, other in ((asker, liar), (liar, asker)):  # dialling, and dialled
            other.handle(PROTOCOL, reply)
            if answer == wire.Granted(b"") and one is liar:
                continue  # that is the right answer there
            with pytest.raises(NoLane), trio.fail_after(10):
                await one.bulk.converse(other.peer, PURPOSE, get_bytes(1))
            assert one.bulk.describe(other.peer)[0] == "streams"


async def test_a_peer_that_promises_to_dial_and_does_not_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "BULK_ASK_S", 0.3)
    monkeypatch.setattr(limits, "BULK_TICKET_S", 0.3)
    async with siege() as s:

        async def promise(stream: Stream) -> None:
            await wire.receive(stream, wire.asks)
            await wire.send(stream, wire.Granted(b""))

        s.attacker.handle(PROTOCOL, promise)
        with pytest.raises(NoLane, match="in time"), trio.fail_after(10):
            await s.victim.bulk.converse(s.attacker.peer, PURPOSE, get_bytes(1))
        assert len(s.victim.bulk._tickets) == 0


async def test_scenario_6_a_flipped_bit_ends_the_channel_and_no_wrong_byte_comes_out() -> None:
    async with proxied(bit_errors(random.Random(6), after_bytes=8192)) as (a, b):
        with pytest.raises(RemoteError, match=r"(?i)mac|lost|record"):
            await b.bulk.converse(a.peer, PURPOSE, get_bytes(8 * MIB))
        assert "again in" in b.bulk.describe(a.peer)[1]
        assert all(info.score == 0 for info in b.peers())  # the wire's fault, not the peer's
