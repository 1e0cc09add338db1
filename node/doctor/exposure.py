"""What of this node other users and other machines can reach (scenarios 44 and 45).

The API is a unix socket for this user only, the metrics are for this machine only; the network's own
port is for everybody. Looked up in the settings and, if a daemon runs, in the system's table of its
listening sockets.
"""

from __future__ import annotations

import re
import socket
import stat
from collections.abc import Collection, Iterator
from typing import Any

import psutil  # type: ignore[import-untyped]

from primed.node.config import is_loopback
from primed.node.doctor.context import Context
from primed.node.doctor.results import fail, ok, skip, warn
from primed.node.local_views import CheckView
from primed.node.views import StatusView

_PORT = re.compile(r"/tcp/(\d+)")
_MDNS_PORT = 5353


def check(context: Context) -> Iterator[CheckView]:
    yield _api(context)
    if context.config is not None:
        yield _metrics(context.config.metrics_listen)
    if context.status is not None:
        yield _sockets(context.status)


def _api(context: Context) -> CheckView:
    path = context.paths.socket
    if not path.exists():
        return skip("api", "no daemon runs: there is no API")
    for each, most in ((path, 0o700), (path.parent, 0o700)):
        mode = stat.S_IMODE(each.stat().st_mode)
        if mode & ~most:
            text = f"others can reach {each} (mode {mode:04o})"
            return fail("api", text, f"run: chmod 700 {each}")
    return ok("api", "a unix socket, for this user only")


def _metrics(listen: str) -> CheckView:
    if not listen:
        return ok("metrics", "off")
    if is_loopback(listen):
        return ok("metrics", f"{listen}, for this machine only")
    text = f"every machine that reaches {listen} can read the metrics"
    return warn("metrics", text, "use 127.0.0.1, or let a firewall decide who reads them")


def _sockets(status: StatusView) -> CheckView:
    """What the daemon's process really listens on."""
    try:
        found = psutil.Process(status.pid).net_connections("inet")
    except psutil.Error as error:
        return skip("sockets", f"the daemon's sockets cannot be listed: {error}")
    own = {int(match[1]) for a in status.network.listen if (match := _PORT.search(a))}
    speaks = status.network.mdns.startswith("announced")
    exposed = sorted(
        told for c in found if (told := _told(c, own, speaks)) and not is_loopback(_ip_port(c))
    )
    if exposed:
        text = f"the daemon also listens on {', '.join(exposed)}, which others can reach"
        return warn("sockets", text, "see metrics_listen: primed config show --origin")
    ports = ", ".join(map(str, sorted(own))) or "none"
    mdns = f", mDNS ({_MDNS_PORT}/udp)" if speaks else ""
    return ok("sockets", f"open to others: the network's own port ({ports}){mdns} and nothing else")


def _told(entry: Any, own: Collection[int], speaks: bool) -> str:
    """A socket that waits for anybody, and is none of those that are meant to; else ""."""
    if entry.type != socket.SOCK_DGRAM:
        is_meant = entry.laddr.port in own
        return _ip_port(entry) if entry.status == psutil.CONN_LISTEN and not is_meant else ""
    if entry.raddr or not entry.laddr or speaks and entry.laddr.port == _MDNS_PORT:
        return ""
    waits = entry.laddr.ip in ("0.0.0.0", "::") or entry.laddr.port == _MDNS_PORT
    return f"{_ip_port(entry)}/udp" if waits else ""  # others only ask something


def _ip_port(entry: Any) -> str:
    return f"{entry.laddr.ip}:{entry.laddr.port}"
