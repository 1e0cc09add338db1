"""Rollouts: batches, pushed to holders before they are committed to. Protocol `/primed/rollouts/1`.

Purpose. Push, then commit: a worker uploads a batch to two holders, gets their signed receipts and
only then signs a commitment; from then on nobody needs the worker to be online. Roles: workers
push; learners, verifiers and caches hold; learners and verifiers fetch from holders.

| request              | answer                                        | largest         |
|----------------------|-----------------------------------------------|-----------------|
| offer(header)        | wanted, or stored(receipt) if it is here      |                 |
| put(header) + bytes  | stored(receipt)                               | 256 MiB         |
| get(run, batch)      | found + bytes, not_found, or busy             | 256 MiB         |

header = run, worker, counter, content digest, Merkle root, size. The receipt is the holder's
signature (domain `stored`) over all of them but the size, which the digest implies.

Sequence. offer -> wanted -> put -> stored. The holder writes the bytes aside, checks size and
digest, syncs bytes and header, then signs. A crash anywhere before that leaves nothing; after it, a
repeated offer is answered with the same receipt: exactly once, whoever crashed.

Validation
- REJECT (charged; bad_request, or a reset stream if malformed): malformed; another worker's batch;
  bytes that do not match.
- denied: the daemon refuses the worker (excluded); the counter has a committed batch already.
- busy: the worker's share (64 batches, 1 GiB) or the store (4,096; 16 GiB) is full, or another
  upload of that worker is under way. The daemon makes room with `forget` as batches are used.
  The upload cap is used up or too low for a `get`; in quiet hours nothing is taken (`offer`), and a
  `get` answered only to those who judge batches: a holder's receipt promised them the bytes.
  Puts count towards the cap, too, but go on: they are the worker's own work.
An uncommitted batch is replaced by a new one under the same counter.

Why offer first: a refusal, or a receipt for what is here already, costs no upload. Why no Merkle
check here: a holder vouches for bytes only; what they say is the verifiers' business.
"""

from primed.protocols.rollouts.messages import BatchHeader
from primed.protocols.rollouts.service import PROTOCOL, Rollouts

__all__ = ["PROTOCOL", "BatchHeader", "Rollouts"]
