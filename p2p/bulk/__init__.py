"""The bulk lane: TLS 1.3 in threads beside libp2p. Protocol id `/primed/bulk/1`.

Purpose. Noise and Yamux in Python cost five times the CPU of TLS on a blocking socket, and all of
it on the trio loop. So two peers that have a libp2p connection, and one of which can dial the
other, agree on a second connection for large payloads. Roles: the asker wants a conversation for
some purpose, the answerer serves it; independent of that, one side listens and the other dials.

Sequence. The asker opens a libp2p stream and sends `ask`; the answerer grants or refuses. Whoever
listens made the ticket: 32 random bytes, bound to the other's peer id, good for one use within 5 s.
The dialling side connects to the address under which its libp2p connection was made (libp2p's own
port takes both: the first byte of a TLS record is 0x16), does the TLS handshake, sends the ticket,
and reads one byte 0x01. After that the bytes belong to the purpose.

| message (`wire`)              | from     | largest |
|-------------------------------|----------|---------|
| ask(purpose, dials, ticket)   | asker    | 1 KiB   |
| granted(ticket)               | answerer | 1 KiB   |
| refused(reason, retry_ms)     | answerer | 1 KiB   |

Who dials: the asker if its connection to the answerer is one that it dialled, else the answerer.
Without such a connection on either side there is no bulk lane; streams serve.

Rules
- Both show libp2p certificates; each side compares the peer id with the one it expects, the
  listener with the ticket's. No certificate, another peer's ticket: charged, cut.
- REJECT (charged): malformed messages, tickets that are unknown, used or another peer's, tickets
  that nobody came for. IGNORE: late tickets, sockets that fail before they name a peer.
- A socket may take 5 s for TLS and 5 s for the ticket; 8 at a time, 2 an IP; none at all while
  no ticket is out.
- Places: 2 served and 4 asked for at a time at home, 8 and 8 on a server. A peer has one for each
  purpose: a new conversation ends the older one, which its asker may have left in a crash.
- Sends wait for the upload allowance (`p2p.uploads`), which all lanes share.
- After a failure streams are used for 1 s, 2 s, ... 5 min; `Network.peers()` says so and why.

Why a ticket, where the certificate proves the peer: it says what the socket is for, and lets the
listener turn away, unread, whoever was not invited a moment ago.
"""

from primed.p2p.bulk.lane import PROTOCOL, BulkLane

__all__ = ["PROTOCOL", "BulkLane"]
