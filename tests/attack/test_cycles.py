"""Scenario 14: a network that is started and stopped a thousand times leaves nothing behind. In
small, and with two hosts that talk: net/test_host.py."""

from __future__ import annotations

import gc
import os
import threading

import pytest
import trio

from ..net.hosts import LOCAL, new_network
from .test_floods import resident_bytes

pytestmark = pytest.mark.trio
CYCLES = 1000


def left_behind() -> tuple[int, int, int]:
    """Open files, threads, trio tasks."""
    gc.collect()
    tasks = trio.lowlevel.current_statistics().tasks_living
    return len(os.listdir("/proc/self/fd")), threading.active_count(), tasks


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_scenario_14_a_thousand_starts_and_stops_leave_nothing_behind() -> None:
    async def cycles(count: int) -> None:
        for _ in range(count):
            async with new_network().running([LOCAL], []):
                pass

    await cycles(20)  # what is loaded once
    before, memory = left_behind(), resident_bytes()
    await cycles(CYCLES)
    await trio.sleep(0.5)
    assert all(now <= then for now, then in zip(left_behind(), before, strict=True))
    print(f"\n{(resident_bytes() - memory) / CYCLES / 1024:.1f} KiB a cycle")
    assert resident_bytes() - memory < CYCLES * 50 * 1024
