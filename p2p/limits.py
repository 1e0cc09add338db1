"""Every bound of the network in one place (docs/protocol.md, "Limits").

Times are seconds, sizes bytes. A `Profile` holds what differs between a home computer and a
server; swarms on one machine need `Profile.on_one_machine()`, since there all peers share an IP.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Profile:
    """How many connections a node takes, and how many it looks for by itself."""

    connections: int = 50
    inbound_per_ip: int = 8
    inbound_per_subnet: int = 32  # /24 for IPv4, /48 for IPv6
    target_peers: int = 12

    def on_one_machine(self) -> Profile:
        """The same profile without the limits that assume one peer an IP."""
        return replace(self, inbound_per_ip=self.connections, inbound_per_subnet=self.connections)


HOME = Profile()
SERVER = Profile(connections=400)

# Streams
STREAMS_PER_CONNECTION = 64
STREAMS_PER_PROTOCOL_AND_PEER = 8
WRITE_BYTES = 65_507  # one Noise record; bigger writes cost 25-40 % more CPU
READ_BYTES = 256 * 1024
OPEN_STREAM_S = 10.0
NEGOTIATE_S = 5
RECEIVE_WINDOW_BYTES = 1024 * 1024  # a stream's flow-control window grows up to here
CONNECTION_BUFFER_BYTES = 16 * 1024 * 1024  # unread bytes of all streams of a connection

# Connections
DIAL_S = 2.0  # one address
ADDRESSES_TRIED = 4  # of a peer, one after the other
UPGRADE_S = 5.0  # Noise and Yamux handshakes together
WRITE_STALL_S = 10.0  # a frame that a peer does not take for so long ends the connection
PING_INTERVAL_S = 10.0
PING_TIMEOUT_S = 15.0  # silent for so long after a ping: disconnected
STOP_S = 15.0

# Gossip
GOSSIP_MESSAGE_BYTES = 1024 * 1024
GOSSIP_RPC_BYTES = GOSSIP_MESSAGE_BYTES + 64 * 1024  # with signatures and control messages
GOSSIP_QUEUE_BYTES = 48 * 1024 * 1024  # waiting for one peer; the bytes are shared by all queues
GOSSIP_QUEUE_ENTRIES = 4096
GOSSIP_CACHE_BYTES = 64 * 1024 * 1024  # whole messages kept to answer IWANT
GOSSIP_SEEN_IDS = 65_536
GOSSIP_ID_BYTES = 64
GOSSIP_TOPIC_BYTES = 256
GOSSIP_TOPICS_PER_PEER = 64
GOSSIP_CONTROL_IDS = 1024  # ids heeded of one control message
HEARTBEAT_S = 1
IDONTWANT_HEARTBEATS = 5  # how long a peer's "I have it" is remembered
IDONTWANT_FROM_BYTES = 1024  # smaller messages are cheaper than telling everybody

HOLD_FROM_BYTES = 16 * 1024  # shards; events go on at once
HOLD_S, HOLD_BETWEEN_S = 0.2, 0.05  # before sending one on, and between its receivers
HELD_MESSAGES = 512  # more than that are sent on at once

# Discovery and overlay
RETRY_FIRST_S, RETRY_LAST_S = 2.0, 30.0  # of bootstrap peers and peers that once answered
RETRY_HEARSAY_LAST_S = 600.0  # of addresses that never answered
HEARSAY_FAILURES = 6  # then such a peer is forgotten
DIALS_AT_ONCE = 4
OVERLAY_TICK_S = 1.0
REFRESH_FIRST_S, REFRESH_S = 5.0, 120.0  # of the routing table, after a change and in peace
DHT_CALL_S = 15.0
DHT_QUERY_S = 5.0  # one peer
PROVIDERS_MAX = 64
PEERS_KNOWN = 1024
ADDRESSES_PER_PEER = 8
CACHE_PEERS = 64  # last known good peers on disk
CACHE_FILE_BYTES = 256 * 1024
CACHE_SAVE_S = 30.0

# Penalties: points of 100, half-life 10 minutes
SCORE_HALF_LIFE_S = 600.0
SCORE_DISCONNECT = -20.0
SCORE_BAN = -50.0
BAN_S = 12 * 3600.0
SCORES_KEPT = 8192
