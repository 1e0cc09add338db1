"""Events: the signed statements of everybody in a run. Protocol id `/primed/events/1`, topic
`primed/<run>/events`.

Purpose. All that the run's verdicts and ledger rest on are statements (`verify.statements`) in
signed events, one chain an author. This protocol brings every event to every node, in chain order,
and proves it when an author tells two stories. Roles: everybody emits, stores, forwards, answers.

Event = run, author, seq (0, 1, ...), prev (digest of the author's event before, in this run; the
run id for seq 0), unix_ms, body. Signed are the exact bytes, domain `event`; digest: `event`.

Gossip: one SignedEvent a message; at most 4 KiB an event, 64 KiB a cut of the run's originator.

| request (run, ...)          | answer                          | largest              |
|-----------------------------|---------------------------------|----------------------|
| get_heads(summary)          | heads: all heads and voids; empty if the summary is the same | 4,096 each |
| get_head(author)            | heads: one or none              | 1                    |
| get_range(author, start, n) | events start ...; fewer where the chain or the upload cap ends | 256 events, 1 MiB |
| get_proof(author)           | equivocation: two events        | 128 KiB              |

Sequence. Emit: append to the store and sync, then gossip. Receive: validate, append in chain order
(an early event waits: 64 an author, 2,048 in all), then tell the daemon. On connect, and every 3 s
with a random connected peer, compare heads and fetch ranges, one of each author in turn; after 10 s
(60 s at most) with one peer it is the next one's turn. At start a node asks two peers for its
own head (10 s): ahead of the store = adopt, continue after it; nobody answers = the store counts.

Validation (pure: `validation`), of gossip and of ranges alike
- REJECT: larger than allowed; malformed, nested, not finite; another run; signature wrong.
- IGNORE: seen already; author proven to equivocate, at or behind that place; unix_ms more than 5
  minutes ahead; the 4,097th author.
- A range with other events than asked, or none where a head was announced, is charged.
unix_ms decides nothing else; order is by seq, and across authors by cuts.

Equivocation. Two different events signed for one (run, author, seq) are a proof; it is kept, told
to the daemon, and voids the author's events from seq on. The contradicting event is forwarded (it
is news until an author is convicted), and proofs spread by heads too, so every node convicts alone
and offline. A fork further back shows as a `prev` that does not fit; the place before is compared.

Why digests of all events in memory (32 bytes each): "seen" is then exact, for gossip validation
without a database. Why no order across authors: nothing needs one; cuts fix what counts.
"""

from primed.protocols.events.messages import Equivocation, Event, SignedEvent, Stored, event_digest
from primed.protocols.events.service import PROTOCOL, EventLog
from primed.protocols.events.store import EventStore
from primed.protocols.events.sync import Recovery
from primed.protocols.events.validation import Outcome, proven_place, validate_message

__all__ = [
    "PROTOCOL",
    "Equivocation",
    "Event",
    "EventLog",
    "EventStore",
    "Outcome",
    "Recovery",
    "SignedEvent",
    "Stored",
    "event_digest",
    "proven_place",
    "validate_message",
]
