"""Messages of /primed/verdicts/1."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct
from msgspec.msgpack import Decoder

from primed.protocols.limits import EVIDENCE_DETAIL_CHARS
from primed.verify.runspec import Digest
from primed.verify.statements import Verdict


class GetEvidence(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="get"):
    run: Digest
    commitment: Digest


class Evidence(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="evidence"):
    """A verifier's verdict and, in words, what it saw: enough to understand a rejection."""

    verdict: Verdict
    detail: Annotated[str, Meta(max_length=EVIDENCE_DETAIL_CHARS)]


requests: Decoder[GetEvidence] = Decoder(GetEvidence)
responses: Decoder[Evidence] = Decoder(Evidence)
