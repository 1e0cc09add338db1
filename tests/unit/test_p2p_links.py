"""The local networks that a node speaks on: as far as it listens there."""

from __future__ import annotations

from ipaddress import IPv4Interface
from pathlib import Path
from types import SimpleNamespace

import psutil  # type: ignore[import-untyped]
import pytest

from primed.p2p import links as module
from primed.p2p.links import default_gateways, is_on, links, transports

LAN, OTHER = IPv4Interface("192.168.1.5/24"), IPv4Interface("10.1.2.3/16")


def address(ip: str, netmask: str | None, family: str = "AF_INET") -> SimpleNamespace:
    return SimpleNamespace(address=ip, netmask=netmask, family=SimpleNamespace(name=family))


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {
        "lo": [address("127.0.0.1", "255.0.0.0"), address("::1", None, "AF_INET6")],
        "eth0": [address("192.168.1.5", "255.255.255.0"), address("00:11", None, "AF_PACKET")],
        "wlan0": [address("10.1.2.3", "255.255.0.0")],
        "down0": [address("10.9.9.9", "255.255.0.0")],
        "tun0": [address("10.8.0.2", "255.255.255.255")],
        "gone0": [address("10.7.0.2", "255.255.255.0")],
    }
    flags = {"lo": "up,loopback", "eth0": "up,multicast", "wlan0": "up,multicast"}
    flags |= {"down0": "multicast", "tun0": "up,pointopoint"}
    states = {n: SimpleNamespace(isup="up" in f.split(","), flags=f) for n, f in flags.items()}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: told)
    monkeypatch.setattr(psutil, "net_if_stats", lambda: states)


def test_who_listens_everywhere_is_on_all_links_but_loopback() -> None:
    assert links(["/ip4/0.0.0.0/tcp/1", "/ip6/::/tcp/1"]) == [OTHER, LAN]
    assert links(["/ip6/::1/tcp/1"]) == links([]) == []


def test_who_listens_somewhere_is_on_that_link() -> None:
    assert links(["/ip4/192.168.1.5/tcp/1"]) == [LAN]
    assert links(["/ip4/127.5.0.1/tcp/1"]) == [IPv4Interface("127.5.0.1/8")]
    assert links(["/ip4/10.8.0.2/tcp/1", "/ip4/10.9.9.9/tcp/1"]) == []


def test_what_peers_on_a_link_are_told() -> None:
    listening = ["/ip4/0.0.0.0/tcp/4101", "/ip4/10.1.2.3/tcp/5", "/ip4/172.16.0.1/tcp/6"]
    assert transports(listening, [OTHER, LAN]) == [
        "/ip4/10.1.2.3/tcp/4101",
        "/ip4/192.168.1.5/tcp/4101",
        "/ip4/10.1.2.3/tcp/5",
    ]
    assert is_on([LAN], "192.168.1.255") and not is_on([LAN], "192.168.2.1")
    assert not is_on([LAN], "router.lan") and not is_on([], "192.168.1.1")


def test_a_system_that_tells_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse() -> None:
        raise PermissionError("no netlink here")

    monkeypatch.setattr(psutil, "net_if_addrs", refuse)
    monkeypatch.setattr(module, "_ROUTES", tmp_path / "route")
    assert links(["/ip4/0.0.0.0/tcp/1"]) == [] and default_gateways() == set()


def test_default_gateways_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table = tmp_path / "route"
    table.write_text(
        "Iface\tDestination\tGateway \tFlags\n"
        "eth0\t00000000\t0101A8C0\t0003\n"
        "eth0\t0001A8C0\t00000000\t0001\n"
        "tun0\t00000000\t00000000\t0001\n"
    )
    monkeypatch.setattr(module, "_ROUTES", table)
    assert default_gateways() == {"192.168.1.1"}
