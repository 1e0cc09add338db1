"""Are the listening addresses to be had, or in use by our own daemon?"""

from __future__ import annotations

import socket
from collections.abc import Iterator

from primed.node.doctor.context import Context
from primed.node.doctor.results import fail, ok, skip, warn
from primed.node.local_views import CheckView


def check(context: Context) -> Iterator[CheckView]:
    if context.status is not None:
        listen = context.status.network.listen
        if listen:
            yield ok("ports", f"the daemon listens on {', '.join(listen)}")
        else:
            yield ok("ports", "the daemon listens at no address: it only dials others")
    elif context.silent is not None:
        yield skip("ports", context.why_no_daemon)
    elif context.config is None:
        yield skip("ports", "the settings are wrong")
    else:
        is_default = context.config.origins.get("listen") == "default"
        for address in context.config.listen:
            yield _tried(address, is_default)


def _tried(address: str, is_default: bool) -> CheckView:
    kind, host, _, port = address.split("/")[1:5]
    if kind not in ("ip4", "ip6"):
        return fail("ports", f"{address} is a name", "listen on an IP address, such as 0.0.0.0")
    family = socket.AF_INET if kind == "ip4" else socket.AF_INET6
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            text = f"{address} cannot be had: {error.strerror}"
            if is_default:
                return warn("ports", text, "primed start takes any free port instead")
            return fail("ports", text, "choose another: primed config set listen ADDRESS")
    return ok("ports", f"{address} is free")
