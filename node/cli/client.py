"""The CLI's side of the local API: one HTTP request over the daemon's unix socket."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlencode

import msgspec

from primed.node.paths import Paths
from primed.node.views import View
from primed.p2p.errors import UserError

ANSWER_S = 40.0
SLOW_ANSWER_S = 620.0  # join and publish may move a checkpoint
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
        return _decoded(self._exchange("GET", target, None, ANSWER_S), type_)

    def post(self, path: str, type_: type[V], **body: object) -> V:
        """The view that an action answers with."""
        encoded = msgspec.json.encode(body)
        return _decoded(self._exchange("POST", f"/v1/{path}", encoded, SLOW_ANSWER_S), type_)

    def _exchange(self, method: str, target: str, body: bytes | None, timeout_s: float) -> bytes:
        connection = _UnixConnection(self._paths.socket, timeout_s)
        try:
            connection.request(method, target, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read(ANSWER_MAX_BYTES)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise not_running(self._paths) from error
        except PermissionError as error:
            text = f"the daemon of {self._paths.root} belongs to another user"
            raise UserError(text, "run primed as that user, or use your own --data-dir") from error
        except TimeoutError as error:
            text = f"the daemon did not answer within {timeout_s:.0f} s"
            raise UserError(text, f"see {self._paths.logs}/daemon.log") from error
        except (OSError, http.client.HTTPException) as error:
            text = f"the daemon broke the connection off ({type(error).__name__})"
            raise UserError(text, f"see {self._paths.logs}/daemon.log") from error
        finally:
            connection.close()
        if response.status != 200:
            problem = _decoded(answer, _Problem)
            raise UserError(problem.error, problem.hint, exit_code=problem.code)
        return answer


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("primed", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


T = TypeVar("T")


def _decoded(answer: bytes, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(answer, type=type_)
    except msgspec.DecodeError as error:
        text = "the daemon's answer is not understood: it may be of another version"
        raise UserError(text, "restart the daemon: primed stop, primed start") from error


def not_running(paths: Paths) -> UserError:
    from primed.node.paths import DEFAULT_DATA_DIR

    is_default = paths.root == Path(DEFAULT_DATA_DIR).expanduser()
    option = "" if is_default else f" --data-dir {paths.root}"
    return UserError(f"no daemon runs for {paths.root}", f"start one: primed start{option}")
