"""The local API: JSON over HTTP on a unix socket that only this user can reach.

The socket lies in a 0700 directory and is 0700 itself, so other users cannot connect. A browser
cannot open unix sockets; should something forward one to it, requests with an Origin or for a
host other than `primed` are refused (DNS rebinding, cross-site requests). Served by
`node.serving` behind its `unix_listener`; what it shows comes from a `NodeView`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog
import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from primed.node import serving as http
from primed.node.views import ErrorView, NodeView, View
from primed.p2p.errors import UserError

HOST = "primed"
BODY_MAX_BYTES = 64 * 1024
ANSWER_S = 30.0
SLOW_ANSWER_S = 600.0  # join and publish may move a checkpoint
LIMIT_MAX = 10_000
_log = structlog.get_logger("primed.api")
T = TypeVar("T")


class JoinRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    target: str
    roles: tuple[str, ...] = ()


class PublishRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    spec_path: str


def make_app(node: NodeView, on_error: Callable[[], None] = lambda: None) -> ASGIApp:
    """The application. `on_error` is called once per internal error, for a counter."""

    async def join(request: Request) -> View:
        wanted = await _body(request, JoinRequest)
        return await node.join(wanted.target, wanted.roles)

    async def publish(request: Request) -> View:
        return await node.publish((await _body(request, PublishRequest)).spec_path)

    def asking(path: str, ask: Callable[[Request], Awaitable[View]]) -> Route:
        return Route(path, _answered(ask, ANSWER_S, on_error), methods=["GET"])

    def doing(path: str, act: Callable[[Request], Awaitable[View]]) -> Route:
        return Route(path, _answered(act, SLOW_ANSWER_S, on_error), methods=["POST"])

    routes = [
        asking("/v1/status", lambda _: node.status()),
        asking("/v1/peers", lambda _: node.peers()),
        asking("/v1/id", lambda _: node.identity()),
        asking("/v1/runs", lambda _: node.runs()),
        asking("/v1/runs/{run}", lambda request: node.run(request.path_params["run"])),
        asking("/v1/rewards", lambda request: node.rewards(_run(request), _limit(request))),
        asking("/v1/verdicts", lambda request: node.verdicts(_run(request), _limit(request))),
        doing("/v1/join", join),
        doing("/v1/publish", publish),
        doing("/v1/stop", lambda _: node.stop()),
    ]
    return _LocalOnly(Starlette(routes=routes, exception_handlers={HTTPException: _no_such_route}))


def serving(app: ASGIApp, path: Path) -> AbstractAsyncContextManager[None]:
    """Serve on the unix socket at `path` while entered; the data directory's lock must be held."""
    return http.serving(app, http.unix_listener(path))


async def _no_such_route(request: Request, error: Exception) -> Response:
    text = f"the API has no {request.method} {request.url.path}"
    status = error.status_code if isinstance(error, HTTPException) else 500
    return _json(ErrorView(text, "the daemon may be of another version"), status)


class _LocalOnly:
    """Refuses what a browser or a forwarded port would send, before anything is parsed."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        is_local = headers.get(b"host") == HOST.encode() and b"origin" not in headers
        if scope["type"] != "http" or not is_local:
            view = ErrorView("only local programs may use this API", f"send Host: {HOST}")
            await _json(view, 403)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _answered(
    ask: Callable[[Request], Awaitable[View]], within_s: float, on_error: Callable[[], None]
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            with trio.fail_after(within_s):
                return _json(await ask(request), 200)
        except UserError as error:
            return _json(ErrorView(error.message, error.hint, error.exit_code), 400)
        except trio.TooSlowError:
            text = f"the daemon did not answer within {within_s:.0f} s"
            return _json(ErrorView(text, "primed status --waits says what it waits for"), 504)
        except Exception:  # noqa: BLE001  the API's border: a failed request is not the end
            on_error()
            _log.exception("request failed", path=request.url.path)
            text = "the daemon could not answer because of a bug"
            return _json(ErrorView(text, "logs/daemon.log in the data directory has it"), 500)

    return endpoint


async def _body(request: Request, type_: type[T]) -> T:
    body = bytearray()  # read before any refusal: who is still sending would see a broken pipe
    async with aclosing(request.stream()) as parts:
        async for part in parts:
            body += part
            if len(body) > BODY_MAX_BYTES:
                raise UserError(f"the body is larger than {BODY_MAX_BYTES} bytes")
    if request.headers.get("content-type") != "application/json":
        raise UserError("the body must be application/json")
    try:
        return msgspec.json.decode(body, type=type_)
    except (msgspec.DecodeError, RecursionError) as error:
        raise UserError(f"the body is not understood: {error}") from error


def _run(request: Request) -> str:
    return request.query_params.get("run", "")


def _limit(request: Request) -> int:
    text = request.query_params.get("limit", "20")
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text[:9]) <= LIMIT_MAX:
        raise UserError(f"limit must be a number from 1 to {LIMIT_MAX}")
    return int(text)


def _json(view: msgspec.Struct, status: int) -> Response:
    return Response(msgspec.json.encode(view), status, media_type="application/json")
