"""A real child process for the supervisor's tests: speaks primed.training.messages over --fd.

What it does is asked for by the counter of a Generate request, so that a test can have any fault.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

import msgspec

from primed.training import messages as m

SLOW, OOM, EXIT, RUBBISH, SILENT, SEGFAULT, FATAL, ROWS_ABOVE_8 = range(101, 109)
Send = Callable[[m.Reply], None]


def main() -> None:
    sock = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
    lock, silent = threading.Lock(), threading.Event()

    def send(message: m.Reply) -> None:
        body = msgspec.msgpack.encode(message)
        with lock:
            sock.sendall(len(body).to_bytes(4, "big") + body)

    def beat() -> None:
        while not silent.wait(0.2):
            send(m.Heartbeat(busy_with="", busy_s=0.0))

    threading.Thread(target=beat, daemon=True).start()
    print("environment", sorted(os.environ), flush=True)
    stream = sock.makefile("rb")
    while header := stream.read(4):
        request = msgspec.msgpack.decode(stream.read(int.from_bytes(header, "big")), type=m.Request)
        if isinstance(request, m.Configure):
            if request.spec == b"bad":
                send(m.Failed(id=request.id, kind="bad_config", message="no such model"))
            else:
                send(m.Ready(id=request.id, backend="torch", device="cpu", profile="test"))
        elif isinstance(request, m.Generate):
            misbehave(request, send, sock, silent)
            if ends(request):
                return
            send(generated(request))


def misbehave(
    request: m.Generate, send: Send, sock: socket.socket, silent: threading.Event
) -> None:
    if request.counter == SLOW:
        time.sleep(3)
    elif request.counter == OOM:
        os.kill(os.getpid(), signal.SIGKILL)
    elif request.counter == EXIT:
        os._exit(7)
    elif request.counter == RUBBISH:
        sock.sendall(b"\x00\x00\x00\x02hi")
    elif request.counter == SILENT:
        silent.set()
    elif request.counter == SEGFAULT:
        os.kill(os.getpid(), signal.SIGSEGV)
    elif ends(request):
        send(m.Failed(id=request.id, kind="oom", message="2 GiB wanted", fatal=True))


def ends(request: m.Generate) -> bool:
    """Whether memory runs out."""
    is_too_much = request.counter == ROWS_ABOVE_8 and request.rows_max > 8
    return request.counter == FATAL or is_too_much


def generated(request: m.Generate) -> m.Generated:
    return m.Generated(
        id=request.id,
        counter=request.counter,
        version=request.version,
        path=request.out_path,
        batch=bytes(32),
        size_bytes=1,
        root=bytes(32),
        rollouts=1,
        chunks=1,
        tokens=1,
        reward_mean=0.5,
        seconds=0.0,
    )


if __name__ == "__main__":
    main()
