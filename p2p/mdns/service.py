"""Says where we are and hears where others are, for as long as `run` does.

zeroconf has a thread with a loop of its own; it is started and stopped in threads with deadlines,
and hands over single hints, so many a second. Nothing is spoken on a machine with a public
address: zeroconf answers whoever asks its port, and the internet is not a local network.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Interface
from typing import Any

import trio
import zeroconf
from zeroconf._dns import DNSText
from zeroconf.asyncio import AsyncServiceBrowser

from primed.p2p import limits
from primed.p2p.buckets import TokenBucket
from primed.p2p.links import links, transports
from primed.p2p.mdns import records

_log = logging.getLogger(__name__)
SERVICE = "_primed._udp.local."
_FAILURES = (OSError, RuntimeError, zeroconf.Error)  # of zeroconf; a timeout is an OSError


class Mdns:
    """`listening`: multiaddrs of our sockets; `learn` is told each hint, in the trio thread."""

    def __init__(
        self,
        peer: bytes,
        listening: Callable[[], list[str]],
        learn: Callable[[bytes, tuple[str, ...]], None],
        *,
        service: str = "",
    ) -> None:
        self._peer = peer
        self._listening = listening
        self._learn = learn
        self._service = service or SERVICE
        self._state = "not started"
        self._heard: set[bytes] = set()

    def describe(self) -> str:
        """How it stands, in one sentence."""
        count = len(self._heard)
        heard = f"; {count} peer{'s' if count != 1 else ''} heard" if self._speaks() else ""
        return self._state + heard

    def _speaks(self) -> bool:
        return self._state.startswith("announced")

    async def run(self) -> None:
        """Speak on the links there are; begin anew when they change, or after a failure."""
        try:
            while True:
                listening = self._listening()
                here = links(listening)
                if reason := _why_not(here):
                    self._state = f"off: {reason}"
                else:
                    await self._speak(here, transports(listening, here))
                await trio.sleep(limits.MDNS_LOOK_S)
        finally:
            self._state = "not started"

    async def _speak(self, here: list[IPv4Interface], told: list[str]) -> None:
        try:
            async with self._speaking(here, told):
                self._state = f"announced on {', '.join(str(link.ip) for link in here)}"
                while (listening := self._listening()) and links(listening) == here:
                    await trio.sleep(limits.MDNS_LOOK_S)
        except _FAILURES as error:
            self._state = f"failed: {str(error) or 'it did not start in time'}"
            _log.warning("mDNS %s", self._state)

    @asynccontextmanager
    async def _speaking(self, here: list[IPv4Interface], told: list[str]) -> AsyncIterator[None]:
        ear = _Ear(self._service, here, self._heard_in(trio.lowlevel.current_trio_token()))
        voice = _Voice(self._service, here, records.encode(self._peer, told), ear)
        try:
            await trio.to_thread.run_sync(voice.open)
            yield
        finally:
            with trio.move_on_after(limits.MDNS_STOP_S) as stop:
                stop.shield = True
                # the stubs are of an older trio
                await trio.to_thread.run_sync(voice.close, abandon_on_cancel=True)  # type: ignore[call-arg]

    def _heard_in(self, token: trio.lowlevel.TrioToken) -> Callable[[records.Hint], None]:
        def hand_over(hint: records.Hint) -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(self._take, *hint)

        return hand_over

    def _take(self, peer: bytes, told: tuple[str, ...]) -> None:
        if peer == self._peer:
            return
        if len(self._heard) < limits.KNOWN_PER_SOURCE:
            self._heard.add(peer)
        self._learn(peer, told)


def _why_not(here: list[IPv4Interface]) -> str:
    if not here:
        return "it listens on no local network"
    for link in here:
        if link.is_global:
            return f"this machine has a public address, {link.ip}"
    return ""


class _Ear(zeroconf.RecordUpdateListener):
    """Called in zeroconf's thread with whatever records come."""

    def __init__(
        self,
        service: str,
        here: list[IPv4Interface],
        hand_over: Callable[[records.Hint], None],
    ) -> None:
        super().__init__()
        self._suffix = f".{service}".lower()
        self._here = here
        self._hand_over = hand_over
        self._pace = TokenBucket(limits.MDNS_HINTS, limits.MDNS_HINTS_PER_S, time.monotonic())

    def async_update_records(
        self, zc: zeroconf.Zeroconf, now: float, records_: list[zeroconf.RecordUpdate]
    ) -> None:
        for record in (update.new for update in records_):
            if not isinstance(record, DNSText) or not record.key.endswith(self._suffix):
                continue
            if not self._pace.take(time.monotonic()):
                return
            if (hint := records.decode(record.text, self._here)) is not None:
                self._hand_over(hint)


class _Voice:
    """One life of zeroconf. Both calls block, and end."""

    def __init__(self, service: str, here: list[IPv4Interface], text: bytes, ear: _Ear) -> None:
        name = secrets.token_hex(16)
        self._service = service
        self._ear = ear
        self._ips = [str(link.ip) for link in here]
        self._info = zeroconf.ServiceInfo(
            service,
            f"{name}.{service}",
            port=1,  # addresses are in the text
            properties=text,
            server=f"{name}.local.",
            parsed_addresses=self._ips,
        )
        self._zeroconf: zeroconf.Zeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None

    def open(self) -> None:
        self._zeroconf = zeroconf.Zeroconf(list(self._ips), ip_version=zeroconf.IPVersion.V4Only)
        self._do(self._begin(self._zeroconf), limits.MDNS_START_S)

    async def _begin(self, zc: zeroconf.Zeroconf) -> None:
        await zc.async_wait_for_start()
        zc.async_add_listener(self._ear, None)
        self._browser = AsyncServiceBrowser(zc, self._service, handlers=[_ignore])  # it asks
        await zc.async_register_service(self._info)

    def close(self) -> None:
        """Also says goodbye to those who heard us."""
        if self._zeroconf is None:
            return
        with suppress(*_FAILURES):
            if self._browser is not None:
                self._do(self._browser.async_cancel(), limits.MDNS_STOP_S)
        with suppress(*_FAILURES):
            self._zeroconf.close()

    def _do(self, what: Coroutine[Any, Any, None], at_most_s: float) -> None:
        assert self._zeroconf is not None and self._zeroconf.loop is not None
        asyncio.run_coroutine_threadsafe(what, self._zeroconf.loop).result(at_most_s)


def _ignore(**_: object) -> None:
    """What is wanted of a browser is its questions."""
