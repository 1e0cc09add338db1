"""Shardcast: weight payloads, leaf by leaf. Protocol id `/primed/shardcast/1`, topics
`primed/<run>/shards/<learner>`.

Purpose. A payload is a file cut into leaves under a Merkle root (RFC 6962 over BLAKE3; 64 KiB
leaves below 16 MiB, else 256 KiB), named by `statements.Payload` in a signed manifest. Any peer may
deliver any leaf, because each is verified by itself on arrival. Roles: a learner adds and pushes;
followers, verifiers and caches fetch, keep and serve, also what is not complete yet.

Gossip: shard(payload, signature, index, leaf, path): 256 KiB + path, payloads up to 1 MiB only.

| request                    | answer                                    | largest          |
|----------------------------|-------------------------------------------|------------------|
| get_have(payload)          | have(bitmap); empty: nothing of it        | 500 kB           |
| get_leaves(payload, indexes) | leaves: those that the peer has, with paths | 4 leaves, 1 MiB |

Sequence. The learner syncs the file, emits the manifest, then pushes in random order (small) or
waits to be asked (large). A follower told to `expect` a payload takes pushed leaves; after 1.5 s
without one, or at once if the payload is large, it asks peers what they have and pulls, rarest
first, <= 4 leaves in flight a peer, <= 8 sources, duplicates at the end (`machine`). The file gets
its final name when every leaf is verified and synced (`store`).

States of a transfer: not begun -> waiting for pushed leaves -> pulling -> complete; or refused,
dropped, disk (named, tried again).

Validation
- REJECT: malformed or too large; a payload above 1 MiB pushed; a leaf of the wrong size or that is
  not under the root; a signature (domain `shards`) that is not the topic's learner's.
- IGNORE: a leaf that is here already.
- A pulled leaf that is not in the payload names and charges its sender (HIGH), who is not asked
  again for it; a request that fails costs a pause; the transfer goes on with others.
- A payload with leaves above 256 KiB or more than 4,000,000 of them is refused.

Limits. 64 transfers; 8 MiB of early leaves; `protocols.limits`.

Why shards are signed: they travel faster than their manifest is stored at each hop. With the
learner's signature a node can forward a leaf it has no manifest for, and only the learner can fill
its early store. Why the sender of a leaf need not be trusted, nor the store's state after a crash:
both are checked against the same root.
"""

from primed.protocols.shardcast.service import PROTOCOL, Progress, Shardcast
from primed.protocols.shardcast.store import PayloadStore

__all__ = ["PROTOCOL", "PayloadStore", "Progress", "Shardcast"]
