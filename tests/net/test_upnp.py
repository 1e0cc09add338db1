"""UPnP against a router of our own, real sockets on loopback: mapped, renewed, taken back; refused with
a reason; and answers that no router should give."""

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from primed.p2p import limits
from primed.p2p.errors import RemoteError
from primed.p2p.upnp import PortMapper, tree
from primed.p2p.upnp.ssdp import Place, place_of, read_answer

from .igd import DEVICE, WAN_IP, Router, envelope, fault, respond

Say = Callable[[trio.SocketStream], Awaitable[None]]
T = TypeVar("T")


@pytest.fixture(autouse=True)
def short_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UPNP_SEARCH_S", 0.4)


@asynccontextmanager
async def home(outside: str = "8.8.4.4") -> AsyncIterator[tuple[Router, PortMapper]]:
    """A router and a node, at addresses that no other test has."""
    own = f"127.{random.randint(1, 254)}.{random.randint(0, 254)}.{random.randint(1, 254)}"
    router = Router(own, {own}, outside)
    async with router.running():
        yield router, PortMapper(lambda: [f"/ip4/{own}/tcp/4101"])


async def failure(mapper: PortMapper) -> str:
    assert await mapper.keep(4101) is None
    return mapper.describe()


@pytest.mark.trio
async def test_a_port_is_mapped_with_a_lease_and_taken_back() -> None:
    async with home() as (router, mapper):
        mapping = await mapper.keep(4101)
        assert mapping is not None and (mapping.ip, mapping.port) == ("8.8.4.4", 4101)
        assert router.mappings == {4101: (router.ip, 4101, limits.UPNP_LEASE_S)}
        assert f"{router.ip} leads its port 4101 to {router.ip}:4101" in mapper.describe()
        assert await mapper.keep(4101) is mapping and len(router.asked) == 2
        await mapper.drop("stopped")
        assert not router.mappings and mapper.describe() == "stopped"
        assert await mapper.keep(4101) is None  # it has been searched for just now
        await mapper.drop("the network is down", is_end=True)
        assert await mapper.keep(4101) is not None


@pytest.mark.trio
async def test_the_mapping_is_renewed_before_its_lease_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "UPNP_LEASE_S", 1)
    async with home() as (router, mapper):
        first = await mapper.keep(4101)
        assert first is not None
        await trio.sleep(0.3)
        second = await mapper.keep(4101)
        assert second is not None and second.asked_at_s > first.asked_at_s
        router.faults["AddPortMapping"] = [501]
        await trio.sleep(0.3)
        assert "dropped the mapping" in await failure(mapper)  # not searched for at once
        monkeypatch.setattr(limits, "UPNP_AGAIN_S", 0.0)
        mapper._again_at_s = 0.0
        assert await mapper.keep(4101) is not None


@pytest.mark.trio
async def test_a_port_that_others_have_and_a_router_without_leases() -> None:
    async with home() as (router, mapper):
        router.faults["AddPortMapping"] = [718, 725, 718]
        mapping = await mapper.keep(4101)
        assert mapping is not None and mapping.port != 4101 and mapping.lease_s == 0
        asked = [arguments for action, arguments in router.asked if action == "AddPortMapping"]
        assert [a["NewLeaseDuration"] for a in asked] == ["3600", "3600", "0", "0"]
        assert asked[1]["NewExternalPort"] == asked[2]["NewExternalPort"]
        assert router.mappings == {mapping.port: (router.ip, 4101, 0)}


@pytest.mark.parametrize("service", ["WANIPConnection:2", "WANPPPConnection:1"])
@pytest.mark.trio
async def test_other_kinds_of_connection(service: str) -> None:
    async with home() as (router, mapper):
        router.service = WAN_IP.replace("WANIPConnection:1", service)
        router.control = (
            f"http://{router.ip}:{router.location.split('/')[2].split(':')[1]}/up/x?y=1"
        )
        assert await mapper.keep(4101) is not None


@pytest.mark.trio
async def test_without_a_router_nothing_is_found_and_the_search_waits() -> None:
    mapper = PortMapper(lambda: ["/ip4/127.254.254.1/tcp/1"])
    assert await failure(mapper) == "no router answers on 127.254.254.1"
    began = time.monotonic()
    assert await mapper.keep(1) is None and time.monotonic() - began < 1
    nowhere = PortMapper(list)
    assert await failure(nowhere) == "no router answers on any link"


@pytest.mark.trio
async def test_every_refusal_has_a_reason() -> None:
    async with home() as (router, mapper):

        async def refused() -> str:
            mapper._again_at_s = 0.0
            return await failure(mapper)

        router.faults = {"AddPortMapping": [606]}
        assert "AddPortMapping was refused: 606 'no'" in await refused()
        router.faults = {"AddPortMapping": [718] * limits.UPNP_PORTS}
        assert "refused: 718" in await refused()
        router.faults = {"GetExternalIPAddress": [501]}
        assert "GetExternalIPAddress was refused: 501" in await refused()
        assert not router.mappings


PRIVATE = ("10.0.0.1", "100.64.3.2", "192.168.0.1", "127.0.0.1")
NO_ADDRESSES = ("", "banana", "999.1.1.1", "::1", "8.8.4.4.9", "1" * 10_000)


@pytest.mark.trio
async def test_what_a_router_says_of_its_address_is_looked_at() -> None:
    async def check(address: str) -> None:
        async with home(address) as (router, mapper):
            told = await failure(mapper)
            assert not router.mappings and len(told) < 300
            private = f"behind another router itself, at {address}"
            assert private in told if address in PRIVATE else "says that its own" in told, told

    await for_each([*PRIVATE, *NO_ADDRESSES], check)


async def for_each(cases: Iterable[T], check: Callable[[T], Awaitable[None]]) -> None:
    """All at once: a search takes time, not work."""
    async with trio.open_nursery() as nursery:
        for case in cases:
            nursery.start_soon(check, case)


def answering(status: int, body: str | bytes, *lines: str) -> Say:
    async def say(stream: trio.SocketStream) -> None:
        await respond(stream, status, body, *lines)

    return say


def sending(data: bytes, times: int = 1, pause_s: float = 0.0) -> Say:
    async def say(stream: trio.SocketStream) -> None:
        for _ in range(times):
            await stream.send_all(data)
            await trio.sleep(pause_s)

    return say


ENTITIES = (
    b'<?xml version="1.0"?><!DOCTYPE r [<!ENTITY a "aaaaaaaaaa">'
    + b"".join(b'<!ENTITY a%d "%s">' % (n, b"&a;" * 10) for n in range(9))
    + b"]><root>&a8;</root>"
)
HEAD = b"HTTP/1.1 200 OK\r\n\r\n"
HOSTILE = {
    "an endless description": (sending(HEAD + b"<a>" + b"x" * 65536, 4096), "more than 262144"),
    "endless fields": (sending(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 65536, 4096), "no HTTP"),
    "endless interim answers": (sending(b"HTTP/1.1 100 C\r\n\r\n" * 500, 4096), "more than 262144"),
    "entities": (answering(200, ENTITIES), "document type"),
    "a file": (
        answering(200, b'<!DOCTYPE r [<!ENTITY f SYSTEM "file:///etc/passwd">]><r>&f;</r>'),
        "document type",
    ),
    "depth": (answering(200, b"<a>" * 1000 + b"</a>" * 1000), "too many elements"),
    "breadth": (answering(200, b"<r>" + b"<a/>" * 50_000 + b"</r>"), "too many elements"),
    "no XML": (answering(200, b"\x80\xff<<<"), "no XML"),
    "an odd encoding": (answering(200, b'<?xml version="1.0" encoding="idna"?><r/>'), "no XML"),
    "nothing": (answering(200, b""), "no XML"),
    "another type": (answering(200, b'{"a": 1}', "Content-Type: application/json"), "no XML"),
    "no gateway": (answering(200, b"<root/>"), "no port mapping"),
    "a redirect": (answering(302, b"", "Location: http://127.0.0.1:1/"), "HTTP 302"),
    "no HTTP": (sending(b"SSH-2.0-OpenSSH_9.2\r\n"), "no HTTP"),
    "an end": (sending(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n<a>"), "no HTTP"),
}


@pytest.mark.trio
async def test_answers_that_no_router_should_give() -> None:
    async def check(name: str) -> None:
        say, words = HOSTILE[name]
        async with home() as (router, mapper):
            router.say["/root.xml"] = say
            told = await failure(mapper)
            assert words in told and len(told) < 300, name
            assert not router.asked

    tracemalloc.start()
    try:
        await for_each(HOSTILE, check)
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.trio
async def test_a_device_that_drips_bytes_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UPNP_ANSWER_S", 0.5)
    async with home() as (router, mapper):
        router.say["/root.xml"] = sending(b"H", 10_000, pause_s=0.05)
        assert "does not answer in time" in await failure(mapper)


ELSEWHERE = [
    "http://127.0.0.1:1/control",
    "http://127.0.0.1@192.0.2.1/",
    "//192.0.2.1/control",
    "https://{ip}/control",
    "file:///etc/passwd",
    "http://[::",
    "http://{ip}:99999/",
    "http://{ip}:{port}/a b",
    "/" + "x" * 5000,
    "",
]


@pytest.mark.trio
async def test_a_router_cannot_send_us_elsewhere() -> None:
    async def check(elsewhere: str) -> None:
        async with home() as (router, mapper):
            port = router.location.split("/")[2].split(":")[1]
            router.control = elsewhere.format(ip=router.ip, port=port)
            assert "no port mapping at its own address" in await failure(mapper), elsewhere
            assert not router.asked
            router.location = elsewhere.format(ip=router.ip, port=port)
            mapper._again_at_s = 0.0
            assert "no router answers" in await failure(mapper), elsewhere

    await for_each(ELSEWHERE, check)


FAULTS = [
    (fault(606, "a\x1b[31m"), "no XML"),
    (fault(606, "é\u202e" * 1000), "606 "),
    (envelope("<s:Fault><errorCode>x</errorCode></s:Fault>"), "refused: 0 ''"),
    (envelope("<s:Fault><errorCode>" + "9" * 9999 + "</errorCode></s:Fault>"), "refused: 0"),
    ("", "no XML"),
]


@pytest.mark.trio
async def test_faults_of_any_form_are_short_words() -> None:
    async def check(case: tuple[str, str]) -> None:
        body, words = case
        async with home() as (router, mapper):
            router.say["/control"] = answering(500, body)
            told = await failure(mapper)
            assert words in told and len(told) < 400, case
            assert told.isascii() and told.isprintable()

    await for_each(FAULTS, check)


@pytest.mark.trio
async def test_of_many_devices_on_the_link_few_are_tried_and_for_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "UPNP_FIND_S", 1.0 + limits.UPNP_SEARCH_S)
    async with home() as (router, mapper):
        base = router.location.removesuffix("/root.xml")
        answer, count = router._search_answer, iter(range(10_000))

        def many() -> bytes:
            path = f"/{next(count)}/root.xml"
            router.say[path] = sending(b"", 100, pause_s=1.0)
            router.location = base + path
            return answer()

        monkeypatch.setattr(router, "_search_answer", many)
        began = time.monotonic()
        assert "given up after" in await failure(mapper)
        assert time.monotonic() - began < 3 * limits.UPNP_FIND_S


def test_only_gateways_on_the_sender_count() -> None:
    def told(location: str, st_: str = DEVICE, first: str = "HTTP/1.1 200 OK") -> Place | None:
        answer = f"{first}\r\nst: {st_}\r\nLocation: {location}\r\n\r\n"
        return read_answer(answer.encode(), "192.0.2.1")

    assert told("http://192.0.2.1/d.xml") == Place("192.0.2.1", 80, "/d.xml")
    assert told("http://192.0.2.1:5000/a?b=c") == Place("192.0.2.1", 5000, "/a?b=c")
    assert told("http://192.0.2.2/d.xml") is None
    assert told("http://192.0.2.1/d.xml", "upnp:rootdevice") is None
    assert told("http://192.0.2.1/d.xml", first="NOTIFY * HTTP/1.1") is None
    assert read_answer(b"\xff" * 2048, "192.0.2.1") is None


@given(st.binary(max_size=2000), st.text(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_have_an_end(data: bytes, url: str) -> None:
    read_answer(b"HTTP/1.1 200 OK\r\n" + data, "192.0.2.1")
    found = place_of(url, "192.0.2.1")
    assert found is None or found.ip == "192.0.2.1"
    try:
        tree.parse(data)
    except RemoteError as error:
        assert len(error.reason) < 200
