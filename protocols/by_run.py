"""One server and one client a protocol for all runs of a daemon.

A request goes to the service of the run it names. What a peer lets us ask is for all runs together,
and so is the client that keeps within it.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol, TypeVar

from msgspec.msgpack import Decoder

from primed.p2p.network import Network, PeerId
from primed.protocols.client import Client
from primed.protocols.rpc import Attachment, Refused
from primed.protocols.server import Answer, Reply, Server


class OfRun(Protocol):
    """A request about one run."""

    @property
    def run(self) -> bytes: ...


T = TypeVar("T", bound=OfRun)
R = TypeVar("R")


class RunServers:
    """Made once by the daemon and given to the services of every run."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._answers: dict[str, dict[bytes, Answer[Any]]] = {}  # protocol -> run -> answer
        self._clients: dict[tuple[str, str], Client[Any]] = {}  # (protocol, share) -> client

    def serve(
        self, protocol: str, requests: Decoder[T], run: bytes, answer: Answer[T], **options: Any
    ) -> None:
        """Serve a run's requests; a second call for the same run replaces the answer.
        `options` are the Server's, taken from the first call for a protocol."""
        answers = self._answers.get(protocol)
        if answers is None:
            answers = self._answers[protocol] = {}
            Server(self.network, protocol, requests, partial(_dispatch, answers), **options)
        answers[run] = answer

    def client(
        self, protocol: str, responses: Decoder[R], share: str = "", **options: Any
    ) -> Client[R]:
        """The client with which every run asks. `share`: a part of the peers' quota with streams of
        its own; all of them together must fit. `options` are the Client's, taken from the first
        call for a share."""
        client: Client[R] | None = self._clients.get((protocol, share))
        if client is None:
            client = self._clients[protocol, share] = Client(
                self.network, protocol, responses, **options
            )
        return client


async def _dispatch(
    answers: dict[bytes, Answer[Any]], peer: PeerId, message: OfRun, attachment: Attachment
) -> Reply:
    answer = answers.get(message.run)
    if answer is None:
        raise Refused("not_found", "no such run here")
    return await answer(peer, message, attachment)
