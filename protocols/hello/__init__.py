"""Hello: who a peer is, and which runs it knows. Protocol id `/primed/hello/1`.

Purpose. Identify tells which software speaks; hello tells which *member* speaks: a NodeRecord
signed by the node's key. Answering hello is what proves membership in the swarm (DHT provider
records are hints). RunSpecs are fetched here by id, so that a run id and one address suffice to
join. Roles: everybody asks and everybody answers.

Messages (msgpack arrays in frames; see `protocols.rpc` for the envelope)

| request   | answer  | largest            |
|-----------|---------|--------------------|
| greet     | greeted | 8 KiB a record     |
| list_runs | runs    | 256 ids            |
| get_run   | run     | 64 KiB RunSpec     |

Sequence. On connect each side may greet; one exchange informs both. Records are exchanged again
every 60 s and when ours has changed; a failed greeting is repeated after 5 s while connected.

Doubles. A record names its session, a random number new at each start, and the other sessions of
its key that were lately shown to it. An answer to `greet` shows the newest record of another session
of the asker's key, if that came within a lease (75 s): only the key itself can have signed it, but a
peer may have kept it. So it proves that the other session lives only if it names the asker's session,
which nobody could know before that began. Who is shown a new session greets all peers at once, and so
names it. Two that live are two machines with one key; the later one ends before it signs anything
(node.doppelganger). A second session makes the receiver greet that peer at once.

Validation
- REJECT (charged; bad_request, or a reset stream if malformed): malformed; a record about another
  peer than the one at the other
  end; signature (domain `record`) wrong; a RunSpec that is unsigned, invalid or of another id.
- IGNORE: a record that is not newer (sequence) than the one known; one expired for > 5 minutes.

Limits. 1,024 records, disconnected peers go first; 256 runs listed; protocols.limits for pacing.

Why greet only the peer itself: a relayed record of a third party would have to be checked against
replays and expiry by everybody; connections are cheap enough to ask the source.
"""

from primed.protocols.hello.messages import NodeRecord, SignedRecord
from primed.protocols.hello.records import open_record, sign_record
from primed.protocols.hello.service import PROTOCOL, Hello

__all__ = ["PROTOCOL", "Hello", "NodeRecord", "SignedRecord", "open_record", "sign_record"]
