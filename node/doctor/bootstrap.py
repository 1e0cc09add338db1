"""Do the bootstrap peers answer, and as libp2p? Each is dialled by TCP; no key is needed for that."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from primed.node.doctor.context import Context
from primed.node.doctor.results import fail, ok, skip, warn
from primed.node.local_views import CheckView

ANSWER_S = 3.0
TRIED_MAX = 16
_HELLO = b"\x13/multistream/1.0.0\n"


def check(context: Context) -> Iterator[CheckView]:
    if context.status is not None:  # also those of flags and of the invite
        peers = context.status.network.bootstrap[:TRIED_MAX]
    elif context.config is not None:
        peers = context.config.bootstrap[:TRIED_MAX]
    else:
        yield skip("bootstrap", "the settings are wrong")
        return
    if not peers:
        text = "no bootstrap peer is set; an invite gives some: primed start --join"
        yield skip("bootstrap", text)
        return
    with ThreadPoolExecutor(len(peers)) as pool:
        answers = dict(zip(peers, pool.map(why_not, peers), strict=True))
    bad = [f"{_short(address)}: {why}" for address, why in answers.items() if why]
    text = f"{len(peers) - len(bad)} of {len(peers)} bootstrap peers answer"
    if not bad:
        yield ok("bootstrap", text)
        return
    say = warn if len(bad) < len(peers) else fail
    remedy = "ask who gave the address, or take a new invite; peers known from before are tried too"
    yield say("bootstrap", f"{text} ({'; '.join(bad)})", remedy)


def why_not(address: str) -> str:
    """Why a peer cannot be used, "" if it answers as libp2p does."""
    _, host, _, port = address.split("/")[1:5]
    try:
        with socket.create_connection((host, int(port)), ANSWER_S) as connection:
            connection.settimeout(ANSWER_S)
            connection.sendall(_HELLO)
            is_peer = connection.recv(64).startswith(_HELLO)
    except OSError as error:
        return error.strerror or str(error) or type(error).__name__
    return "" if is_peer else "something else than a libp2p peer answers"


def _short(address: str) -> str:
    return address.rpartition("/p2p/")[0]
