"""Circuit relay v2: connections between peers of which one cannot be dialled, through a third.

Follows the libp2p specification "circuit-v2"; the messages are the library's, the rest is ours,
because the library enforces none of its own limits on who reserves, and reads without deadlines.

Sequence. A peer that cannot be dialled opens a stream to a relay and sends RESERVE; from then on its
address is `<relay's address>/p2p/<relay>/p2p-circuit`. Who dials that opens a stream to the relay,
sends CONNECT; the relay opens a STOP stream to the peer; both say OK, and what follows is copied.
On it the two make an ordinary connection (Noise, Yamux): the relay sees only ciphertext.

Limits of a relay (`limits`): reservations in all and an IP, circuits in all and a reserved peer, bytes
and time a circuit, bytes a second. A circuit beyond its limit is reset both ways. Over a circuit
nothing is reserved or connected further. A peer takes circuits only from relays that it has a
reservation with, and only so many.
"""

HOP = "/libp2p/circuit/relay/0.2.0/hop"
STOP = "/libp2p/circuit/relay/0.2.0/stop"
