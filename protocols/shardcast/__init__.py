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
| gained(payload, indexes)   | noted(has, is_wanted)                     | 4,096 leaves     |
| get_leaves(payload, indexes) | leaves: those that the peer has, with paths | 4 leaves, 1 MiB |
| want(payload, indexes), on the bulk lane | coming(paths), then the bytes | 16 leaves, 4 MiB |

Sequence. The learner syncs the file, emits the manifest, then pushes in random order (small) or
waits to be asked (large). A follower told to `expect` a payload takes pushed leaves; after 1.5 s
without one, or at once if the payload is large, it asks peers what they have (`get_have`), which
then announce what they gain (`gained`, once a second, five in a row at most), and pulls
(`machine`, `sources`): rarest leaves first, from <= 8 sources by throughput and success, what a source sends in 0.4 s at a
time. The last 2 % and what is overdue is asked of a second source. The origin shows each leaf of a
large payload to one peer first (`seeding`), so that all have left it once after W/u. Without
progress for 4 s (12 s while a connected peer knows the payload) the DHT is asked for providers of
the root; whoever is complete provides it. The file gets its final name when every leaf is verified
and synced (`store`).

States of a transfer: not begun -> waiting for pushed leaves -> pulling -> complete; or refused,
dropped, disk (named, tried again). Without a new leaf for 10 s it is told to have stalled, and what
did not come.

Validation
- REJECT: malformed or too large; a payload above 1 MiB pushed; a leaf of the wrong size or that is
  not under the root; a signature (domain `shards`) that is not the topic's learner's.
- IGNORE: a leaf that is here already; an announcement of what nobody waits for.
- A pulled leaf that is not in the payload names and charges its sender (HIGH), who is not asked
  again for it; so is a peer (MID) that three times had none of the leaves it announced. A request
  that fails costs a pause; the transfer goes on with others.
- A payload with leaves above 256 KiB or more than 4,000,000 of them is refused.
- busy: the upload cap is used up, or quiet hours; denied: a large payload over a relay.

Limits. 64 transfers; 8 MiB of early leaves; 4,096 subscriptions; `protocols.limits`.

Why shards are signed: they travel faster than their manifest is stored at each hop. With the
learner's signature a node can forward a leaf it has no manifest for, and only the learner can fill
its early store. Why the sender of a leaf need not be trusted, nor the store's state after a crash:
both are checked against the same root. Why little is asked of a source at a time: a leaf that waits
in one peer's queue is not asked of another that would send it at once (1.5 s ahead instead of 0.4
cost 16 nodes 6 % and 64 nodes 10 % of W/u in `benchmarks.broadcast_sim`).
"""

from primed.protocols.shardcast.service import PROTOCOL, Progress, Shardcast
from primed.protocols.shardcast.store import PayloadStore
from primed.protocols.shardcast.transfer import News

__all__ = ["PROTOCOL", "News", "PayloadStore", "Progress", "Shardcast"]
