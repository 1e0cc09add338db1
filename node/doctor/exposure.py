"""What of this node other users and other machines can reach (scenarios 44 and 45).

The API is a unix socket for this user only, the metrics are for this machine only; the network's own
port is for everybody. Looked up in the settings and, if a daemon runs, in the system's table of its
listening sockets.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator

import psutil  # type: ignore[import-untyped]

from primed.node.config import is_loopback
from primed.node.doctor.context import Context
from primed.node.doctor.results import fail, ok, skip, warn
from primed.node.local_views import CheckView
from primed.node.views import StatusView

_PORT = re.compile(r"/tcp/(\d+)")


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
        found = psutil.Process(status.pid).net_connections("tcp")
    except psutil.Error as error:
        return skip("sockets", f"the daemon's sockets cannot be listed: {error}")
    own = {int(match[1]) for a in status.network.listen if (match := _PORT.search(a))}
    listening = {
        f"{c.laddr.ip}:{c.laddr.port}"
        for c in found
        if c.status == psutil.CONN_LISTEN and c.laddr.port not in own
    }
    exposed = sorted(address for address in listening if not is_loopback(address))
    if exposed:
        text = f"the daemon also listens on {', '.join(exposed)}, which others can reach"
        return warn("sockets", text, "see metrics_listen: primed config show --origin")
    ports = ", ".join(map(str, sorted(own))) or "none"
    return ok("sockets", f"open to others: the network's own port ({ports}) and nothing else")
