"""Peers on the local network, by multicast DNS (`zeroconf`): no bootstrap peer is needed there.

Records have the form of libp2p's mDNS specification (a random name of 32 characters, one `dnsaddr=`
text an address) under a service name of our own, `_primed._udp.local.`, so that nodes of other
networks are not dialled. Anybody on the local network can say anything: what is heard is a hint
for the peer book, of our own links only, so much a second; the handshake proves who is there.
"""

from primed.p2p.mdns.service import Mdns

__all__ = ["Mdns"]
