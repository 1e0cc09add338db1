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
    known_per_subnet: int = 16  # addresses in the peer book, /24 or /48
    known_per_network: int = 64  # the same, /16 or /32
    chosen_per_network: int = 2  # peers of one network that count as chosen
    mesh_per_network: int = 4  # and that are in one topic's mesh
    bulk_up: int = 2  # bulk conversations served at a time, and asked for
    bulk_down: int = 4

    @property
    def inbound(self) -> int:
        """Places for those who dial us; the rest is kept for peers that we choose."""
        return self.connections - min(self.target_peers, self.connections // 4)

    def on_one_machine(self) -> Profile:
        """The same profile without the limits that assume one peer an IP."""
        return replace(
            self,
            inbound_per_ip=self.connections,
            inbound_per_subnet=self.connections,
            known_per_subnet=PEERS_KNOWN * ADDRESSES_PER_PEER,
            known_per_network=PEERS_KNOWN * ADDRESSES_PER_PEER,
            chosen_per_network=self.connections,
            mesh_per_network=self.connections,
        )

    def within(self, open_files: int) -> Profile:
        """The same profile for a process that may open so many files (`ulimit -n`)."""
        sockets = max(4, min(self.connections, open_files - OTHER_FILES))
        return replace(self, connections=sockets)

    def for_handshakes(self) -> Profile:
        """The limits on bulk sockets that have shown no ticket yet."""
        profile = replace(
            self,
            connections=BULK_HANDSHAKES,
            inbound_per_ip=BULK_HANDSHAKES_PER_IP,
            inbound_per_subnet=BULK_HANDSHAKES,
        )
        return profile.on_one_machine() if self.inbound_per_ip >= self.connections else profile


HOME = Profile()
SERVER = Profile(connections=400, bulk_up=8, bulk_down=8)

OTHER_FILES = 128  # open files of a daemon that are no connections: database, children, listeners

# Streams
STREAMS_PER_CONNECTION = 64
STREAMS_PER_PROTOCOL_AND_PEER = 8
WRITE_BYTES = 65_507  # one Noise record; bigger writes cost 25-40 % more CPU
READ_BYTES = 256 * 1024
OPEN_STREAM_S = 10.0
NEGOTIATE_S = 5
NEGOTIATION_LINE_BYTES = 1024
STREAM_FLOOD_BURST, STREAM_FLOOD_PER_S = 128.0, 1.0  # streams refused; more end the connection
IDENTIFY_BYTES = 16 * 1024  # what a peer says of itself
IDENTIFY_PROTOCOLS, IDENTIFY_ADDRESSES = 128, 32  # kept of it
EXCHANGE_S = 20.0  # a stream of identify or of the DHT, from its first byte to its end
SILENT_S = 10.0  # no byte for so long inside a message ends its stream
SLOWEST_BYTES_PER_S = 32_000  # and a message must average this
RECEIVE_WINDOW_BYTES = 1024 * 1024  # a stream's flow-control window grows up to here
CONNECTION_BUFFER_BYTES = 16 * 1024 * 1024  # unread bytes of all streams of a connection
FRAMES_BURST, FRAMES_PER_S = 20_000.0, 4_000.0  # of the muxer; a peer that sends more waits

# Connections
DIAL_S = 2.0  # one address
ADDRESSES_TRIED = 4  # of a peer, one after the other
UPGRADE_S = 5.0  # Noise and Yamux handshakes together
CONNECT_S = ADDRESSES_TRIED * (OPEN_STREAM_S + UPGRADE_S)  # one peer, at worst over relays
WRITE_STALL_S = 10.0  # a frame that a peer does not take for so long ends the connection
GUEST_S = 20.0  # the last inbound place is kept for so long when others want it
PING_INTERVAL_S = 10.0
PING_TIMEOUT_S = 15.0  # silent for so long after a ping: disconnected
STOP_S = 15.0

# Bulk lane
BULK_ASK_S = 10.0  # the exchange that ends in a ticket
BULK_TICKET_S = 5.0  # unused for so long, a ticket is void
BULK_HANDSHAKE_S = 5.0  # TLS, and the ticket that must follow
BULK_HANDSHAKES = 8  # sockets that have shown no ticket yet
BULK_HANDSHAKES_PER_IP = 2
BULK_IDLE_S = 10.0  # no byte for so long ends a conversation
BULK_MIN_BYTES_PER_S = 32_000  # 256 kbit/s, over a whole message
BULK_SEND_BYTES = 256 * 1024  # taken from the upload allowance at a time
BULK_FREE_BYTES = 4 * 1024  # shorter messages do not wait for the allowance
BULK_LINGER_S = 1.0  # for what is under way when a conversation ends in order
BULK_PAUSE_FIRST_S, BULK_PAUSE_LAST_S = 1.0, 300.0  # after failures; streams serve meanwhile
BULK_BUSY_S = 2.0
BULK_PURPOSE_CHARS = 128

# Gossip
GOSSIP_MESSAGE_BYTES = 1024 * 1024
GOSSIP_RPC_BYTES = GOSSIP_MESSAGE_BYTES + 64 * 1024  # with signatures and control messages
GOSSIP_ENVELOPE_BYTES = 512  # of a message beside its data: ids, topic, signature
GOSSIP_QUEUE_BYTES = 48 * 1024 * 1024  # waiting for one peer; the bytes are shared by all queues
GOSSIP_QUEUE_ENTRIES = 4096
GOSSIP_CACHE_BYTES = 64 * 1024 * 1024  # whole messages kept to answer IWANT
GOSSIP_SEEN_IDS = 65_536
GOSSIP_ID_BYTES = 64
GOSSIP_TOPIC_BYTES = 256
GOSSIP_TOPICS_PER_PEER = 64
GOSSIP_CONTROL_IDS = 1024  # ids heeded of one control message
GOSSIP_CONTROL_PARTS = 64  # grafts, prunes, ... in one RPC, of each kind
GOSSIP_CONTROL_BYTES = 256 * 1024  # of an RPC beside its messages
GOSSIP_RPC_MESSAGES = 8192  # in one RPC; whole ones would not be more
GOSSIP_RPCS_BURST, GOSSIP_RPCS_PER_S = 4096.0, 512.0  # of one peer; more wait
GOSSIP_ANSWERS = 3  # times that one message is sent to one peer that asks for it
GOSSIP_MESH_CHOSEN = 3  # places in a topic's mesh that only chosen peers may take
HEARTBEAT_S = 1
IDONTWANT_FROM_BYTES = 1024  # smaller messages are cheaper than telling everybody

HOLD_FROM_BYTES = 16 * 1024  # shards; events go on at once
HOLD_S, HOLD_BETWEEN_S = 0.2, 0.05  # before sending one on, and between its receivers
HOLD_RANDOM_S = 3.0  # at most, before sending on what others may send on, too
HELD_MESSAGES = 512  # more than that are sent on at once
HOLD_OWN_S = 4.0  # before our own goes to others than its first receiver
GOSSIP_SPREAD_PEERS = 24  # that get a large message from its origin's first receiver, at most
FIRST_OUT_S = 60.0  # at most, until all that nobody else has is out
GOSSIP_ROOM_S = 10.0  # a full queue is waited for
GOSSIP_HELD_IDS = 4096  # messages that a peer is known to have
IHAVE_PATIENCE_S, IWANT_AGAIN_S = 1.5, 4.0  # what comes by itself is not asked for, nor twice
GOSSIP_OFFERS = 16_384  # messages that peers offer and we lack ...
GOSSIP_OFFERS_FIRST = 1024  # ... of these offered first by one peer ...
GOSSIP_OFFERS_EACH = 8  # ... and peers to ask for one of them

# Discovery and overlay
RETRY_FIRST_S, RETRY_LAST_S = 2.0, 30.0  # the pause between dials doubles; of bootstrap peers
RETRY_PROVEN_LAST_S = 3600.0  # of peers that once answered
RETRY_HEARSAY_LAST_S = 600.0  # of addresses that never answered
HEARSAY_FAILURES = 6  # then such a peer is forgotten
PROVEN_FAILURES = 10  # then one that once answered is ...
PROVEN_KEPT_S = 7 * 86_400.0  # ... if others answered so long after it
DIALS_AT_ONCE = 4
OVERLAY_TICK_S = 1.0
REFRESH_FIRST_S, REFRESH_S = 5.0, 120.0  # of the routing table, after a change and in peace
DHT_CALL_S = 15.0
DHT_QUERY_S = 5.0  # one peer
DHT_INBOUND = 64  # queries served at a time
DHT_SLOW_S = 1.0  # older ones give way to new ones when all places are taken
DHT_MESSAGE_BYTES = 64 * 1024  # a query or an answer; twenty peers with their records are 20 KiB
PROVIDERS_MAX = 64
PROVIDED_KEYS = 4096  # keys whose providers we remember for others
CHOSEN_PEERS = 8  # the most
DIALLED_SHARE = 3  # of so many peers that we look for, one is dialled by us, whoever has come
CHOSEN_WANTED = 6  # with fewer, peers of other networks are dialled, whoever came to us
PROBE_S = 60.0  # between looks at bootstrap peers that we are not connected to
PEERS_KNOWN = 1024
ADDRESSES_PER_PEER = 8
KNOWN_PER_SOURCE = 512  # peers known only from one kind of hearsay
RECORD_BYTES = 8 * 1024  # a peer's signed record, kept for the layer above
BOOK_SAVE_S = 30.0

# Reachability
REACH_FIRST_S, REACH_RETRY_S, REACH_AGAIN_S = 3.0, 15.0, 1800.0
REACH_ASK_S = 20.0  # one peer, which needs DIAL_S + UPGRADE_S if nobody answers it
REACH_AT_ONCE = 4  # dials back
REACH_BURST, REACH_PER_S = 8.0, 0.5  # for everybody
REACH_PER_IP_BURST, REACH_PER_IP_PER_S = 4.0, 1 / 60

# Local networks
LINKS = 16  # spoken on
MDNS_LOOK_S = 60.0  # between looks whether they have changed
MDNS_START_S, MDNS_STOP_S = 10.0, 5.0
MDNS_HINTS, MDNS_HINTS_PER_S = 64.0, 4.0  # records heeded at once, and then
UPNP_SEARCH_S, UPNP_FIND_S = 2.5, 30.0  # for answers; for all of them to be tried
UPNP_ANSWERS = 16  # routers on one link
UPNP_ANSWER_S = 5.0  # one request to a router
UPNP_ANSWER_BYTES = 256 * 1024
UPNP_ELEMENTS, UPNP_DEPTH = 4096, 32  # of an XML answer
UPNP_URL_CHARS = 512
UPNP_SERVICES = 4  # connections of one router that are tried
UPNP_PORTS = 4  # of the router, if others have ours there
UPNP_LEASE_S = 3600  # asked for again after a quarter of it
UPNP_AGAIN_S = 600.0  # before routers are searched for again

# Relay: what we do for others
RELAY_RESERVATIONS, RELAY_RESERVATIONS_PER_IP = 64, 4
RELAY_RESERVATION_S = 1800.0
RELAY_CIRCUITS, RELAY_CIRCUITS_PER_PEER = 32, 8
RELAY_BYTES = 16 * 1024 * 1024  # of a circuit, both ways together
RELAY_BYTES_PER_S, RELAY_BURST_BYTES = 64 * 1024.0, 512 * 1024.0
RELAY_S = 1800.0  # of a circuit
RELAY_CHUNK_BYTES = 16 * 1024
# and for ourselves
RELAYS_USED = 2
RELAYED_IN = 8  # connections to us over relays
RELAY_RENEW_S, RELAY_RETRY_S = 600.0, 10.0

# Penalties: points of 100, half-life 10 minutes
SCORE_HALF_LIFE_S = 600.0
SCORE_DISCONNECT = -20.0
SCORE_BAN = -50.0
BAN_S = 12 * 3600.0
SCORES_KEPT = 8192
PENALTIES_LOGGED_PER_MIN = 60  # lines; the rest is counted
