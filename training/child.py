"""Main of every child process: `python -m primed.training.child --fd N`.

Started by the daemon's supervisor with one inherited socket. Reads requests one by one, answers
each with one reply, and leaves when the socket closes. What goes wrong becomes a typed Failed:
the run or machine (bad_config), a file (bad_input), memory (oom), a full disk (disk), or us (bug). Torch is loaded
only when Configure says what the child is for.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Literal, Protocol, cast

from primed.training.errors import BadConfig, BadInput
from primed.training.messages import Configure, Failed, Ready, Reply, Request
from primed.training.pipe import Pipe, Pulse

MESSAGE_MAX = 2000
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)  # or this user's part of it


class Server(Protocol):
    """A configured child of one kind."""

    def ready(self, request_id: int) -> Ready: ...

    def serve(self, request: Request) -> Reply:
        """Raises BadInput, BadConfig; anything else is a bug."""
        ...


def main() -> None:
    parser = argparse.ArgumentParser(prog="primed.training.child")
    parser.add_argument("--fd", type=int, required=True)
    arguments = parser.parse_args()
    serve(Pipe(socket.socket(fileno=arguments.fd)))


def serve(pipe: Pipe) -> None:
    """Until the socket closes, or until a request ends the child."""
    pulse = Pulse(pipe)
    server: Server | None = None
    while (request := pipe.receive()) is not None:
        pulse.begin(type(request).__name__.lower())
        if isinstance(request, Configure):
            server, reply = _configure(request)
        else:
            reply = _answer(server, request)
        pulse.end()
        try:
            pipe.send(reply)
        except OSError:
            return
        if isinstance(reply, Failed) and reply.fatal:
            return


def _configure(request: Configure) -> tuple[Server | None, Reply]:
    made: list[Server] = []

    def make() -> Reply:
        os.nice(max(0, request.niceness - os.nice(0)))
        module = importlib.import_module(f"primed.training.children.{request.kind}")
        made.append(cast(Server, module.configure(request)))
        return made[0].ready(request.id)

    reply = _supervised(request.id, make)
    if isinstance(reply, Failed):
        return None, Failed(reply.id, reply.kind, reply.message, fatal=True)
    return made[0], reply


def _answer(server: Server | None, request: Request) -> Reply:
    if server is None:
        return Failed(request.id, "bad_config", "the first request must be Configure", fatal=True)
    configured = server
    return _supervised(request.id, lambda: configured.serve(request))


def _supervised(request_id: int, work: Callable[[], Reply]) -> Reply:
    """The border of the child: every exception becomes a typed reply."""
    try:
        return work()
    except BadInput as error:
        return Failed(request_id, "bad_input", _text(error))
    except BadConfig as error:
        return Failed(request_id, "bad_config", _text(error))
    except MemoryError as error:
        return Failed(request_id, "oom", _text(error), fatal=True)
    except OSError as error:
        traceback.print_exc(file=sys.stderr)
        kind: Literal["disk", "bug"] = "disk" if error.errno in _DISK_FULL else "bug"
        return Failed(request_id, kind, _text(error))
    except Exception as error:  # noqa: BLE001  the child's border
        traceback.print_exc(file=sys.stderr)  # the supervisor keeps it in the child's log
        if _is_out_of_memory(error):
            return Failed(request_id, "oom", _text(error), fatal=True)
        return Failed(request_id, "bug", f"{type(error).__name__}: {_text(error)}")


def _is_out_of_memory(error: Exception) -> bool:
    """Torch tells the CPU's lack of memory only in words (DefaultCPUAllocator)."""
    text = str(error)
    is_torch = type(error).__name__ == "OutOfMemoryError"
    return is_torch or (isinstance(error, RuntimeError) and "not enough memory" in text)


def _text(error: BaseException) -> str:
    return str(error)[:MESSAGE_MAX] or type(error).__name__


if __name__ == "__main__":
    main()
