"""One server a protocol for all runs of a daemon: a request goes to the service of the run it names."""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol, TypeVar

from msgspec.msgpack import Decoder

from primed.p2p.network import Network, PeerId
from primed.protocols.rpc import Attachment, Refused
from primed.protocols.server import Answer, Reply, Server


class OfRun(Protocol):
    """A request about one run."""

    @property
    def run(self) -> bytes: ...


T = TypeVar("T", bound=OfRun)


class RunServers:
    """Made once by the daemon and given to the services of every run."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._answers: dict[str, dict[bytes, Answer[Any]]] = {}  # protocol -> run -> answer

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


async def _dispatch(
    answers: dict[bytes, Answer[Any]], peer: PeerId, message: OfRun, attachment: Attachment
) -> Reply:
    answer = answers.get(message.run)
    if answer is None:
        raise Refused("not_found", "no such run here")
    return await answer(peer, message, attachment)
