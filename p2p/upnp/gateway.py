"""What is asked of a gateway: its address outside, and to map a port (WANIPConnection and
WANPPPConnection, UPnP Device Architecture 1.0)."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urljoin
from xml.sax.saxutils import escape

from primed.p2p import limits
from primed.p2p.errors import RemoteError
from primed.p2p.upnp import exchange, tree
from primed.p2p.upnp.ssdp import Place, place_of

_SERVICES = tuple(
    f"urn:schemas-upnp-org:service:{name}"
    for name in ("WANIPConnection:2", "WANIPConnection:1", "WANPPPConnection:1")
)
_ENVELOPE = (
    '<?xml version="1.0"?>'
    '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"'
    ' s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>'
    '<u:{action} xmlns:u="{service}">{arguments}</u:{action}></s:Body></s:Envelope>'
)
TAKEN, ONLY_FOR_EVER = 718, 725  # ConflictInMappingEntry, OnlyPermanentLeasesSupported


class Fault(RemoteError):
    """The gateway understood and said no."""

    def __init__(self, reason: str, code: int) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True)
class Gateway:
    """One connection to the internet that a router tells of."""

    control: Place
    service: str

    async def outside(self) -> str:
        """Its own address, as it says. Raises RemoteError."""
        told = await self._ask("GetExternalIPAddress", {}, "NewExternalIPAddress")
        try:
            return str(ipaddress.IPv4Address(told))
        except ValueError:
            raise RemoteError(f"it says that its own address is {_quoted(told)}") from None

    async def map(self, port: int, ip: str, inner_port: int, lease_s: int) -> None:
        """Point its TCP port at ours, anew or again. Raises RemoteError."""
        arguments = {
            **_name_of(port),
            "NewInternalPort": inner_port,
            "NewInternalClient": ip,
            "NewEnabled": 1,
            "NewPortMappingDescription": "primed",
            "NewLeaseDuration": lease_s,
        }
        await self._ask("AddPortMapping", arguments)

    async def unmap(self, port: int) -> None:
        """Raises RemoteError."""
        await self._ask("DeletePortMapping", _name_of(port))

    async def _ask(self, action: str, arguments: Mapping[str, str | int], wanted: str = "") -> str:
        texts = (f"<{name}>{escape(str(value))}</{name}>" for name, value in arguments.items())
        body = _ENVELOPE.format(action=action, service=self.service, arguments="".join(texts))
        headers = {
            "Content-Type": 'text/xml; charset="utf-8"',
            "SOAPAction": f'"{self.service}#{action}"',
        }
        status, answer = await exchange.post(self.control, headers, body.encode())
        if status == 200:
            return tree.parse(answer).text_of(wanted) if wanted else ""
        if status == 500:
            raise _fault(action, tree.parse(answer))
        raise RemoteError(f"{action} was answered with HTTP {status}")


def _name_of(port: int) -> dict[str, str | int]:
    return {"NewRemoteHost": "", "NewExternalPort": port, "NewProtocol": "TCP"}


def _fault(action: str, answer: tree.Node) -> Fault:
    code, words = answer.text_of("errorCode"), answer.text_of("errorDescription")
    number = int(code) if code.isdecimal() and len(code) < 5 else 0
    return Fault(f"{action} was refused: {number} {_quoted(words)}", number)


def _quoted(text: str) -> str:
    """A stranger's words, short and printable."""
    return ascii(text[:80])[:100]


async def gateways_at(place: Place) -> list[Gateway]:
    """The connections that a description offers, the best first. Raises RemoteError."""
    status, body = await exchange.get(place)
    if status != 200:
        raise RemoteError(f"its description was answered with HTTP {status}")
    description = tree.parse(body)
    base = _joined(f"http://{place.ip}:{place.port}{place.target}", description.text_of("URLBase"))
    found = []
    for service in description.all("service"):
        kind, url = service.text_of("serviceType"), service.text_of("controlURL")
        control = place_of(_joined(base, url), place.ip)
        if kind in _SERVICES and url and control is not None:
            found.append(Gateway(control, kind))
    if not found:
        raise RemoteError("it offers no port mapping at its own address")
    return sorted(found, key=lambda each: _SERVICES.index(each.service))[: limits.UPNP_SERVICES]


def _joined(base: str, url: str) -> str:
    """ "" for what is no URL."""
    try:
        return urljoin(base, url)
    except ValueError:
        return ""
