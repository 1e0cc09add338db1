"""The identity and who can read it, without ever showing it (scenario 43)."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator

from primed.node.doctor.context import Context
from primed.node.doctor.results import fail, ok, warn
from primed.node.local_views import CheckView
from primed.p2p import identity, peerid
from primed.p2p.errors import UserError


def check(context: Context) -> Iterator[CheckView]:
    path, root = context.paths.identity, context.paths.root
    if not path.exists():
        yield warn("identity", f"no identity at {path} yet", "make one: primed init")
        return
    try:
        peer = peerid.to_text(identity.load(path).peer)
        yield ok("identity", f"{peer}, readable by this user only")
    except UserError as error:
        yield fail("identity", error.message, error.hint)
    found = root.stat()
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid != os.getuid():
        remedy = f"run: sudo chown -R {os.getuid()} {shlex.quote(str(root))}"
        yield fail("data-dir", f"{root} belongs to uid {found.st_uid}", remedy)
    elif mode & 0o077:
        remedy = f"run: chmod 700 {shlex.quote(str(root))}"
        yield fail("data-dir", f"others can enter {root} (mode {mode:04o})", remedy)
    else:
        yield ok("data-dir", f"{root} is closed to others")
