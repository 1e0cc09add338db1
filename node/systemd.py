"""Telling systemd how we are, for units of Type=notify (sd_notify(3)); nothing without NOTIFY_SOCKET.

The watchdog's beat comes from the daemon's own loop: a loop that does not turn any more is killed
and restarted by systemd.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

import structlog
import trio

_log = structlog.get_logger("primed.systemd")


class Systemd:
    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        is_for_us = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        usec = environ.get("WATCHDOG_USEC", "") if is_for_us else ""
        self._watchdog_s = int(usec) / 1e6 if usec.isdecimal() else 0.0

    def notify(self, state: str) -> None:
        """Send `READY=1` or the like. Whatever goes wrong is systemd's loss."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
                sender.connect(self._address)
                sender.send(state.encode())
        except OSError as error:
            _log.warning("systemd does not listen", reason=str(error))

    async def beat(self) -> None:
        """WATCHDOG=1 at half the interval that systemd asked for, if it did."""
        while self._watchdog_s:
            self.notify("WATCHDOG=1")
            await trio.sleep(self._watchdog_s / 2)
