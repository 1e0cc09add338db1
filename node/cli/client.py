"""The CLI's side of the local API: one HTTP request over the daemon's unix socket.

Written out, since `http.client` would be a fifth of the CPU time that `primed status` may take: the
answerer is our own daemon, which always says Content-Length.
"""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlencode

import msgspec

from primed.node import lock
from primed.node.paths import DEFAULT_DATA_DIR, Paths
from primed.node.views import View
from primed.p2p.errors import UserError

ANSWER_S = 40.0
SLOW_ANSWER_S = 620.0  # join and publish may move a checkpoint
SILENCE_S = 2.0  # then we look whether the daemon's process runs at all
ANSWER_MAX_BYTES = 64 * 1024 * 1024
V = TypeVar("V", bound=View)


class _Problem(msgspec.Struct):
    error: str
    hint: str = ""
    code: int = 1


class Client:
    """Talks to the daemon of a data directory. Every method raises UserError."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def get(self, path: str, type_: type[V], **query: str | int) -> V:
        """The view at `path`; `query` without empty values."""
        given = {name: value for name, value in query.items() if value != ""}
        target = f"/v1/{quote(path)}" + (f"?{urlencode(given)}" if given else "")
        return _decoded(self._exchange("GET", target, b"", ANSWER_S), type_)

    def post(self, path: str, type_: type[V], **body: object) -> V:
        """The view that an action answers with."""
        encoded = msgspec.json.encode(body)
        return _decoded(self._exchange("POST", f"/v1/{path}", encoded, SLOW_ANSWER_S), type_)

    def _exchange(self, method: str, target: str, body: bytes, timeout_s: float) -> bytes:
        head = (
            f"{method} {target} HTTP/1.1\r\nHost: primed\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            answer = self._call(head.encode() + body, timeout_s)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise not_running(self._paths) from error
        except PermissionError as error:
            text = f"the daemon of {self._paths.root} belongs to another user"
            raise UserError(text, "run primed as that user, or use your own --data-dir") from error
        except TimeoutError as error:
            text = f"the daemon did not answer within {timeout_s:.0f} s"
            raise UserError(text, f"see {self._paths.logs}/daemon.log") from error
        except OSError as error:
            raise self._broken_off() from error
        status, content = _parts(answer)
        if content is None:
            raise self._broken_off()
        if status != 200:
            problem = _decoded(content, _Problem)
            raise UserError(problem.error, problem.hint, exit_code=problem.code)
        return content

    def _call(self, request: bytes, timeout_s: float) -> bytes:
        """All bytes of the answer, until the daemon closes the connection."""
        deadline = time.monotonic() + timeout_s
        answer = bytearray()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(self._paths.socket))
            connection.sendall(request)
            while True:
                left_s = max(0.01, deadline - time.monotonic())
                connection.settimeout(min(SILENCE_S, left_s))
                try:
                    data = connection.recv(1 << 16)
                except TimeoutError:
                    if left_s <= SILENCE_S:
                        raise
                    self._check_runs()
                    continue
                if not data:
                    return bytes(answer)
                answer += data
                if len(answer) > ANSWER_MAX_BYTES:
                    raise OSError("the answer is too large")

    def _check_runs(self) -> None:
        """A stopped process (SIGSTOP, Ctrl-Z) takes connections and answers none of them."""
        import psutil  # type: ignore[import-untyped]  # here, since it takes its time to load

        if not (found := lock.holder(self._paths.lock)):
            return
        with suppress(psutil.Error):
            if psutil.Process(found.pid).status() == psutil.STATUS_STOPPED:
                text = f"the daemon, process {found.pid}, is stopped and answers nothing"
                raise UserError(text, f"let it go on: kill -CONT {found.pid} (or fg in its shell)")

    def _broken_off(self) -> UserError:
        return UserError("the daemon broke off its answer", f"see {self._paths.logs}/daemon.log")


def _parts(answer: bytes) -> tuple[int, bytes | None]:
    """Status and body; None instead of a body that is not whole."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    status = lines[0].split(b" ")[1:2]
    is_whole = b"content-length: %d" % len(body) in lines[1:]
    return int(status[0]) if status and status[0].isdigit() else 0, body if is_whole else None


T = TypeVar("T")


def _decoded(answer: bytes, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(answer, type=type_)
    except msgspec.DecodeError as error:
        text = "the daemon's answer is not understood: it may be of another version"
        raise UserError(text, "restart the daemon: primed stop, primed start") from error


def not_running(paths: Paths) -> UserError:
    if found := lock.holder(paths.lock):
        text = f"the daemon of {paths.root}, process {found.pid}, takes no questions"
        return UserError(text, "it is starting or stopping: ask again in some seconds")
    is_default = paths.root == Path(DEFAULT_DATA_DIR).expanduser()
    option = "" if is_default else f" --data-dir {paths.root}"
    return UserError(f"no daemon runs for {paths.root}", f"start one: primed start{option}")
