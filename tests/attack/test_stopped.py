"""A peer whose process is stopped (SIGSTOP) and goes on later (scenario 2): it is given up, loses no
score, and what was asked of it meanwhile has failed and stays so. A whole minute, with daemons:
cli/test_daemon_faults.py."""

from __future__ import annotations

import signal

import pytest
import trio

from primed.p2p import limits
from primed.p2p.errors import RemoteError

from ..net.hosts import ECHO, LOCAL, ask, new_network, until
from .test_connections import start_victim

pytestmark = pytest.mark.trio


async def test_scenario_2_a_stopped_peer_is_given_up_and_comes_back_with_its_score(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "PING_INTERVAL_S", 0.5)
    monkeypatch.setattr(limits, "PING_TIMEOUT_S", 1.0)
    monkeypatch.setattr(limits, "UPGRADE_S", 1.5)
    one = new_network()
    async with start_victim(1024) as (child, address), one.running([LOCAL], []):
        peer = await one.connect(address)
        assert await ask(one, peer, b"before") == b"before"
        asked = await one.open_stream(peer, ECHO)
        child.send_signal(signal.SIGSTOP)
        try:
            await asked.write_all(b"while it is stopped")
            began = trio.current_time()
            with pytest.raises(RemoteError):
                await asked.read_some(100)
            assert trio.current_time() - began < 0.5 + 1.0 + 2.0
            await until(lambda: not one.peers())
            with pytest.raises(RemoteError), trio.fail_after(30):
                await one.open_stream(peer, ECHO)
        finally:
            child.send_signal(signal.SIGCONT)
        await until(lambda: [info.peer for info in one.peers()] == [peer], 60)
        assert await ask(one, peer, b"after") == b"after"
        with pytest.raises(RemoteError):  # what it answers late is on a connection that is no more
            await asked.read_some(100)
        assert one.peers()[0].score == 0
