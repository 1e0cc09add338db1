"""Whoever subscribes to peers does not live for ever by it."""

from __future__ import annotations

import gc
import random
from pathlib import Path
from weakref import ref

import pytest
import trio

from primed.protocols.by_run import RunServers
from primed.protocols.shardcast import PayloadStore, Shardcast

from ..unit.ledger_swarm import run_of
from .hosts import new_network, started, until
from .memory_network import Fabric

pytestmark = pytest.mark.trio


class Service:
    def __init__(self, heard: list[bool]) -> None:
        self._heard = heard

    def came_or_went(self, peer: bytes, is_connected: bool) -> None:
        self._heard.append(is_connected)


async def test_a_service_hears_of_peers_for_as_long_as_somebody_holds_it() -> None:
    one, other = new_network(), new_network()
    kept, dropped, heard = list[bool](), list[bool](), list[bool]()
    services = [Service(kept), Service(dropped)]
    for service in services:
        one.on_peer(service.came_or_went)
    one.on_peer(lambda peer, is_connected: heard.append(is_connected))
    del service, services[1]
    gc.collect()
    async with started(one, other):
        await until(lambda: kept == [True])
    assert kept == heard == [True, False]
    assert not dropped


async def test_services_of_a_run_that_are_built_anew_leave_nothing_of_the_old_ones(
    tmp_path: Path,
) -> None:
    async with trio.open_nursery() as nursery:
        network = Fabric(nursery).node(1)
        servers, run = RunServers(network), run_of()
        rng, store, old, subscribed = random.Random(1), PayloadStore(tmp_path), [], []
        for _ in range(5):
            new = Shardcast(servers, store, run.run_id, network.peer, network.key.sign, rng)
            old.append(ref(new))
            gc.collect()
            subscribed.append(len(list(network.listeners)))
        assert [each() is None for each in old[:-1]] == [True] * 4
        assert subscribed[0] == subscribed[-1]
