"""Verdicts: the evidence behind a verdict, on request. Protocol id `/primed/verdicts/1`.

Purpose. A verdict is a signed event of one line; a worker whose batch was rejected, or anyone who
doubts, may ask the verifier what it measured. Roles: verifiers answer, anybody asks.

| request              | answer                                 | largest |
|----------------------|----------------------------------------|---------|
| get(run, commitment) | evidence(verdict, detail text) or not_found | 16 KiB of text |

Validation. REJECT (charged; bad_request, or a reset stream if malformed): malformed, a number that
is not finite, evidence on
another commitment than asked. The evidence is unsigned: what binds the verifier is its event.

Why so small: proofs and tokens are in the batch, which holders serve; anybody can measure again.
"""

from primed.protocols.verdicts.messages import Evidence
from primed.protocols.verdicts.service import PROTOCOL, Verdicts

__all__ = ["PROTOCOL", "Evidence", "Verdicts"]
