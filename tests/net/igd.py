"""A home router of our own: answers searches (SSDP), tells what it offers and maps ports (HTTP), and
really leads connections from them. Several can be on one loopback link: each answers the IPs that
it was made for. `say` replaces an answer by whatever a test writes.
"""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from trio_typing import TaskStatus

SSDP = ("239.255.255.250", 1900)
DEVICE = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"
WAN_IP = "urn:schemas-upnp-org:service:WANIPConnection:1"
Say = Callable[[trio.SocketStream], Awaitable[None]]


class Router:
    """`outside`: the address it says to have, and leads connections from if `leads`."""

    def __init__(self, ip: str, clients: set[str], outside: str, *, leads: bool = False) -> None:
        self.ip = ip
        self.outside = outside
        self.location = ""  # of the description, once it runs
        self.mappings: dict[int, tuple[str, int, int]] = {}  # port: (ip, port, lease)
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.faults: dict[str, list[int]] = {}  # action: codes of the next answers
        self.say: dict[str, Say] = {}  # by the path that is asked for
        self.control = "/control"
        self.service = WAN_IP
        self._clients = clients
        self._leads = leads
        self._ends: dict[int, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            [listener] = await trio.open_tcp_listeners(0, host=self.ip)
            self.location = f"http://{self.ip}:{listener.socket.getsockname()[1]}/root.xml"
            nursery.start_soon(trio.serve_listeners, self._serve, [listener])
            await nursery.start(self._answer_searches)
            yield
            nursery.cancel_scope.cancel()

    async def _answer_searches(self, *, task_status: TaskStatus[None]) -> None:
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            await sock.bind(SSDP)
            member = socket.inet_aton(SSDP[0]) + socket.inet_aton(self.ip)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            task_status.started()
            with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mouth:
                await mouth.bind((self.ip, 0))
                while True:
                    data, sender = await sock.recvfrom(2048)
                    if sender[0] in self._clients and DEVICE.encode() in data:
                        await mouth.sendto(self._search_answer(), sender)

    def _search_answer(self) -> bytes:
        lines = ("HTTP/1.1 200 OK", f"ST: {DEVICE}", f"LOCATION: {self.location}", "EXT:", "", "")
        return "\r\n".join(lines).encode()

    async def _serve(self, stream: trio.SocketStream) -> None:
        try:
            head, body = await _request(stream)
            path = head.split()[1]
            if say := self.say.get(path):
                await say(stream)
            elif path.endswith("/root.xml"):
                await respond(stream, 200, self._description())
            else:
                await respond(stream, *await self._do(head, body))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # who asked has heard enough

    def _description(self) -> str:
        service = (
            f"<serviceType>{self.service}</serviceType><controlURL>{self.control}</controlURL>"
        )
        return (
            '<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><device>'
            f"<deviceType>{DEVICE}</deviceType><deviceList><device><serviceList>"
            "<service><serviceType>urn:x:service:Other:1</serviceType>"
            "<controlURL>/other</controlURL></service>"
            f"<service>{service}</service></serviceList></device></deviceList></device></root>"
        )

    async def _do(self, head: str, body: str) -> tuple[int, str]:
        named = re.search(r'soapaction: "([^"#]+)#(\w+)"', head, re.IGNORECASE)
        assert named is not None and named[1] == self.service
        action = named[2]
        arguments = dict(re.findall(r"<(New\w+)>([^<]*)</\1>", body))
        self.asked.append((action, arguments))
        if codes := self.faults.get(action):
            return 500, fault(codes.pop(0))
        told = ""
        if action == "GetExternalIPAddress":
            told = f"<NewExternalIPAddress>{self.outside}</NewExternalIPAddress>"
        elif action == "AddPortMapping":
            await self._map(arguments)
        elif action == "DeletePortMapping":
            port = int(arguments["NewExternalPort"])
            if self.mappings.pop(port, None) is None:
                return 500, fault(714)
            if port in self._ends:
                self._ends.pop(port).cancel()
        return 200, envelope(
            f'<u:{action}Response xmlns:u="{self.service}">{told}</u:{action}Response>'
        )

    async def _map(self, arguments: dict[str, str]) -> None:
        port, inner = int(arguments["NewExternalPort"]), int(arguments["NewInternalPort"])
        lease, ip = int(arguments["NewLeaseDuration"]), arguments["NewInternalClient"]
        known = port in self.mappings
        self.mappings[port] = (ip, inner, lease)
        if self._leads and not known:
            assert self._nursery is not None
            await self._nursery.start(self._lead, port)

    async def _lead(self, port: int, *, task_status: TaskStatus[None]) -> None:
        async def through(outer: trio.SocketStream) -> None:
            ip, inner_port, _ = self.mappings[port]
            inner = await trio.open_tcp_stream(ip, inner_port)
            async with outer, inner, trio.open_nursery() as nursery:
                nursery.start_soon(_pump, outer, inner)
                nursery.start_soon(_pump, inner, outer)

        with trio.CancelScope() as scope:
            self._ends[port] = scope
            listeners = await trio.open_tcp_listeners(port, host=self.outside)
            task_status.started()
            await trio.serve_listeners(through, listeners)


async def _pump(source: trio.SocketStream, sink: trio.SocketStream) -> None:
    try:
        async for data in source:
            await sink.send_all(data)
        await sink.send_eof()
    except trio.BrokenResourceError:
        pass


async def _request(stream: trio.SocketStream) -> tuple[str, str]:
    data = b""
    while b"\r\n\r\n" not in data:
        data += await _some(stream)
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    while len(body) < int(length[1] if length else 0):
        body += await _some(stream)
    return head.decode(), body.decode()


async def _some(stream: trio.SocketStream) -> bytes:
    if not (data := await stream.receive_some(65536)):
        raise trio.ClosedResourceError
    return data


async def respond(stream: trio.SocketStream, status: int, body: str | bytes, *lines: str) -> None:
    data = body.encode() if isinstance(body, str) else body
    head = (f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(data)}", *lines, "", "")
    await stream.send_all("\r\n".join(head).encode() + data)


def envelope(inner: str) -> str:
    return (
        '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/">'
        f"<s:Body>{inner}</s:Body></s:Envelope>"
    )


def fault(code: int, words: str = "no") -> str:
    return envelope(
        "<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>"
        f"<UPnPError><errorCode>{code}</errorCode><errorDescription>{words}</errorDescription>"
        "</UPnPError></detail></s:Fault>"
    )
