"""Every bound and deadline of the protocols, in one place (docs/protocol.md, "Limits").

Times are seconds, sizes bytes. Anything a peer can make us hold, wait for or repeat has a figure
here.
"""

from __future__ import annotations

MIB = 1024 * 1024

# ---- streams
FRAME_MAX_BYTES = 4 * MIB  # one frame: checked before its body is read
DATA_FRAME_BYTES = MIB // 4  # attached bodies travel in raw frames of exactly this, but the last
ATTACHMENT_MAX_BYTES = 256 * MIB
PIECE_WITHIN_S = 5.0  # so long a data frame waits for the upload allowance at most: under IDLE_S
IDLE_S = 10.0  # no byte for this long within a message: the stream is reset
MIN_BYTES_PER_S = 32_000  # 256 kbit/s over the whole message
READ_BYTES = 256 * 1024  # small reads cost twice the CPU on Noise + Yamux
RESET_S = 1.0  # how long dropping a broken stream may take

# ---- requests
STREAMS_PER_PEER = 8  # inbound, for each protocol
CLIENT_STREAMS_PER_PEER = 2  # outbound, for each protocol (shardcast: twice) and all runs together
CLIENT_STREAM_S = 60.0  # a request waits for a free one of these at most
REQUESTS_BURST = 32
REQUESTS_PER_S = 16.0
ALL_REQUESTS_BURST, ALL_REQUESTS_PER_S = 512.0, 256.0  # of all peers and protocols together
STREAM_IDLE_S = 600.0  # a stream without a request for so long is ended
SHARD_REQUESTS_BURST = 512  # shards are bounded by bytes, at most 1 MiB a request
SHARD_REQUESTS_PER_S = 256.0
SHARD_WORDS_BURST, SHARD_WORDS_PER_S = 64, 32.0  # our share for what asks for no leaves
ANSWERS_IN_FLIGHT = 64  # for each protocol, over all peers: until they are made, large ones written
ANSWERS_PER_PEER = 3  # of those, until they are written
SMALL_ANSWER_BYTES = 64 * 1024  # what may be held for each peer's share while it reads slowly
PEERS_TRACKED = 1024
DISK_THREADS = 8

# ---- hello
RECORD_MAX_BYTES = 8 * 1024
RECORD_LIFE_S = 3600.0
RECORDS_KEPT = 1024
GREET_AGAIN_S = 60.0
LEASE_S = 75.0  # who was not heard of for so long does not live: above GREET_AGAIN_S
SESSIONS_PER_PEER = 2
SESSIONS_NAMED = 4  # in a record: other sessions of the key that were shown to its node lately
GREET_RETRY_S = 5.0
RUNS_LISTED = 256

# ---- events
EVENT_MAX_BYTES = 4 * 1024
CUT_MAX_BYTES = 64 * 1024
CLOCK_AHEAD_MS = 5 * 60 * 1000
AUTHORS_MAX = 4096
PENDING_PER_AUTHOR = 64
PENDING_TOTAL = 2048
INBOX_EVENTS = 1024
RANGE_EVENTS = 256
RANGE_MAX_BYTES = 1 * MIB
ANTI_ENTROPY_S = 3.0
VISIT_S, VISIT_MAX_S = 10.0, 60.0  # with one peer: then no new request; then cut, others' turn
RECOVER_HEAD_S = 10.0
RECOVER_HEAD_PEERS = 2
BRANCH_PEERS = 8  # asked for the branch of an equivocator that a cut took

# ---- shardcast
PUSH_MAX_BYTES = 1 * MIB  # larger payloads are pulled
SMALL_PAYLOAD_BYTES = 16 * MIB
SMALL_LEAF_BYTES = 64 * 1024
LARGE_LEAF_BYTES = 256 * 1024
PAYLOAD_LEAVES_MAX = 4_000_000
LEAVES_PER_REQUEST = 4  # over streams
ANSWER_WITHIN_S = 3.0  # under an upload cap: fewer leaves rather than a late answer
BULK_LEAVES = 16  # over the bulk lane
BULK_FROM_BYTES_PER_S = 512 * 1024  # from slower peers streams cost less than conversations
BULK_REFUSED_S = 15.0  # a peer that was busy is not asked for a conversation
BULK_REQUEST_BYTES, BULK_HEAD_BYTES = 2 * 1024, 16 * 1024
BULK_UNUSED_S = 2.0  # an asker ends a conversation that it has no more requests for
BULK_LEASE_BYTES = 256 * MIB  # served in one conversation; then others get the place
BULK_LEASE_S = 300.0  # and no longer: who asks for nothing, or takes it slowly, holds it too
SOURCES_MAX = 8
NEIGHBOURS = 8  # peers asked what they have, and told by; all of them when stuck
PUSH_PATIENCE_S = 1.5  # without a pushed leaf for this long: pull
ASK_TIMEOUT_S = 30.0  # the machine's own bound, above what a stream allows 1 MiB
ASK_AHEAD_S = 0.4  # asked of a source at a time: what it lately sent in this time
STUCK_S = 2.0  # without progress for so long: what is overdue is asked of others, too
FIRST_ANSWER_S = 5.0  # of a source whose pace is not known; then its leaves are overdue
FIND_MORE_S = 4.0  # without progress: look beyond connected peers, ...
FIND_MORE_LATER_S, FIND_MORE_AGAIN_S = 12.0, 15.0  # ... if some of them may still help; and again
PROVIDERS_TRIED = 3
PROVIDE_WITHIN_S = 30.0  # after completion: many nodes are complete at one moment
PROVIDE_S = 900.0  # between announcements in the DHT of large payloads that are complete
ENDGAME_SHARE, ENDGAME_LEAVES = 0.02, 4  # missing leaves, all asked for: ask twice
EXPLORED = 0.1  # choices of sources made without regard to merit
LIES_MAX = 3  # answers without leaves that the peer announced
ANNOUNCE_S = 1.0  # between announcements of new leaves to one peer, but ...
ANNOUNCED_AT_ONCE = 5  # ... so many in a row
ANNOUNCED_LEAVES = 4096  # in one announcement
SUBSCRIBERS = 4096  # (peer, payload) pairs that are told of new leaves ...
SUBSCRIPTIONS_PER_PEER = 64
SEED_PATIENCE_S = 5.0  # a peer that takes nothing for so long loses the leaves it was to spread
SPREADERS = 16  # peers to which an origin gives leaves that nobody has
HAVE_REFRESH_S = 5.0  # a source that could give nothing and announced nothing is asked again
SOURCE_RETRY_S = 2.0
EARLY_LEAVES_BYTES = 8 * MIB  # pushed leaves that came before their manifest
SHARD_INBOX = 256
DOWNLOADS_MAX = 64
STALLED_S = 10.0  # a payload without a new leaf for so long is told to have stalled, and why

# ---- rollouts
BATCHES_PER_WORKER = 64
BATCH_BYTES_PER_WORKER = 1024 * MIB
BATCHES_TOTAL = 4096
BATCH_BYTES_TOTAL = 16 * 1024 * MIB
RECEIPT_WAIT_S = 60.0  # hashing and syncing 256 MiB on a slow disk
BUSY_RETRY_MS = 5000

# ---- verdicts
EVIDENCE_DETAIL_CHARS = 16 * 1024
