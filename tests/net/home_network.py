"""A home behind a router, in a network namespace of its own: `python -m tests.net.home_network FOLDER`.

    10.0.0.0/24  the home: router .1, node .2 and .4 (with two addresses it leaves the choice of one to
                 the system, which has others see it at 20.0.0.2), other node .3
    20.0.0.2     the router's address outside, from which it leads ports to the home
    20.1.0.1, 20.2.0.1   two peers on the internet

The addresses are the loopback device's: nothing leaves the machine. Two real daemons are started as
people would; what they and the router tell is printed as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import trio

from primed.node.demo.swarm import LocalNode
from primed.node.views import PeersView, StatusView
from primed.p2p.host import MEMBER_PROTOCOL, Libp2pNetwork
from primed.p2p.identity import Identity
from primed.p2p.network import Stream

from .igd import Router

SETUP = """
ip link set lo up && ip route add 224.0.0.0/4 dev lo
for each in 10.0.0.1/24 10.0.0.2/24 10.0.0.3/24 10.0.0.4/24 20.0.0.2/32 20.1.0.1/32 20.2.0.1/32; do
  ip addr add $each dev lo || exit 1; done
for each in 20.1.0.1 20.2.0.1; do
  ip route replace local $each dev lo table local src 20.0.0.2 || exit 1; done
"""
AT_MOST_S = 60.0


def daemon(folder: Path, name: str, ip: str) -> LocalNode:
    node = LocalNode(name, folder / name, ())
    node._listen = f"/ip4/{ip}/tcp/4101"
    return node


async def say_nothing(stream: Stream) -> None:
    await stream.close()


async def until(look: Callable[[], Any], node: LocalNode, what: str) -> Any:
    """The first result of `look` (in a thread) that is true; else says how the node is."""
    with trio.move_on_after(AT_MOST_S):
        while True:
            if found := await trio.to_thread.run_sync(look):
                return found
            await trio.sleep(0.2)
    raise SystemExit(f"{what} did not come: {node.status().network}")


async def main(folder: Path) -> None:
    router = Router("10.0.0.1", {"10.0.0.2", "10.0.0.4"}, "20.0.0.2", leads=True)
    outside = [Libp2pNetwork(Identity.generate()) for _ in range(2)]
    for network in outside:
        network.handle(MEMBER_PROTOCOL, say_nothing)
    node, other = daemon(folder, "node", "10.0.0.2"), daemon(folder, "other", "10.0.0.3")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(router.running())
        for network, ip in zip(outside, ("20.1.0.1", "20.2.0.1"), strict=True):
            await stack.enter_async_context(network.running([f"/ip4/{ip}/tcp/4101"], []))
        try:
            bootstrap = [network.listen_addresses()[0] for network in outside]
            node.start(bootstrap, options=["--listen", "/ip4/10.0.0.4/tcp/4101"])
            other.start()
            told = await watch(node, other)
            told["mappings"] = router.mappings.copy()
            told["exit"] = await trio.to_thread.run_sync(node.stop)
            told["left"] = router.mappings.copy()
        finally:
            node.stop()
            other.stop()
    print(json.dumps(told))


async def watch(node: LocalNode, other: LocalNode) -> dict[str, Any]:
    def status() -> StatusView | None:
        found = node.status()
        return found if found.network.reachability == "upnp" else None

    def met() -> list[str]:
        peers = node.get("peers", PeersView).peers
        return [address for peer in peers if peer.peer == other.text for address in peer.addresses]

    await trio.to_thread.run_sync(node.wait_up)
    await trio.to_thread.run_sync(other.wait_up)
    found = await until(status, node, "a mapping that peers have used")
    at = await until(met, node, "the other node of the home")
    await until(lambda: "no router answers" in other.status().network.upnp, other, "a refusal")
    command = [sys.executable, "-m", "primed.node"]
    option = ["--data-dir", str(node.paths.root)]
    doctor = await trio.run_process(
        [*command, "doctor", "--json", *option], capture_stdout=True, check=False
    )
    screen = await trio.run_process([*command, "status", *option], capture_stdout=True)
    checks = json.loads(doctor.stdout)["checks"]
    return {
        "kind": found.network.reachability,
        "evidence": found.network.reachability_evidence,
        "listen": found.network.listen,
        "upnp": found.network.upnp,
        "mdns": found.network.mdns,
        "other_upnp": other.status().network.upnp,
        "met_at": at,
        "doctor": [check for check in checks if check["id"] == "reachability"],
        "screen": screen.stdout.decode(),
    }


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
