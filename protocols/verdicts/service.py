"""Verdicts: a verifier serves the evidence behind its verdicts; anybody may ask."""

from __future__ import annotations

from collections.abc import Callable

from primed.p2p.errors import MID, RemoteError
from primed.p2p.network import Network, PeerId
from primed.protocols.client import Client
from primed.protocols.disk import on_disk
from primed.protocols.rpc import Attachment, Refused
from primed.protocols.server import Reply, Server
from primed.protocols.verdicts.messages import Evidence, GetEvidence, requests, responses

PROTOCOL = "/primed/verdicts/1"
Lookup = Callable[[bytes, bytes], Evidence | None]  # (run id, commitment); blocking


class Verdicts:
    def __init__(self, network: Network, lookup: Lookup) -> None:
        """lookup: our evidence on a commitment, if we checked it; called in a thread."""
        self._network = network
        self._lookup = lookup
        self._client = Client(network, PROTOCOL, responses)
        Server(network, PROTOCOL, requests, self._answer)

    async def get(self, peer: PeerId, run: bytes, commitment: bytes) -> Evidence:
        """The peer's evidence. Raises Refused (not_found) or RemoteError, already charged."""
        evidence = await self._client.request(peer, GetEvidence(run, commitment))
        if evidence.verdict.commitment != commitment:
            reason = "evidence on another commitment"
            self._network.penalise(peer, MID, reason)
            raise RemoteError(reason, peer=peer, penalty=MID)
        return evidence

    async def _answer(self, peer: PeerId, message: GetEvidence, _: Attachment) -> Reply:
        evidence = await on_disk(self._lookup, message.run, message.commitment)
        if evidence is None:
            raise Refused("not_found", "no verdict on this commitment here")
        return Reply(evidence)
