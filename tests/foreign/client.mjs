// js-libp2p nodes that a test commands, one JSON object a line. Run by client.py.
//
//   stdin   {"id": 1, "call": "ping", "timeout_ms": 10000, "args": {"node": "a", ...}}
//   stdout  {"id": 1, "result": ...} or {"id": 1, "error": "..."}, in any order
//           {"event": "gossip", "node": "a", ...} for each message of a topic that was followed
//
// Bytes are hex. Nothing of primed's own is known here but how it makes gossip's message ids: what
// a node says on other protocols is composed by the test.

import { createInterface } from 'node:readline'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { peerIdFromString } from '@libp2p/peer-id'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { CID } from 'multiformats/cid'
import * as raw from 'multiformats/codecs/raw'
import { create as multihash } from 'multiformats/hashes/digest'

// The libraries call it; Node has it from 22 on.
Promise.withResolvers ??= function () {
  const deferred = {}
  deferred.promise = new this((resolve, reject) => Object.assign(deferred, { resolve, reject }))
  return deferred
}

// gossipsub's, when a peer hangs up while it sends; it would end the process
process.on('unhandledRejection', error => console.error(`unhandled: ${error.message}`))

const STREAMS = 100_000 // what a test lets it open; the library's own limits are lower
const LOOKS_AROUND_MS = 1000
const NEVER_MS = 3_600_000
const SHA2_256 = 0x12
const nodes = new Map()
const bytes = text => Buffer.from(text, 'hex')
const hex = data => Buffer.from(data).toString('hex')
const write = line => process.stdout.write(JSON.stringify(line) + '\n')

// docs/protocol.md, "Gossip". The library's own ids leave the first two bytes of `from` out.
function messageId (message) {
  const seqno = Buffer.alloc(8)
  seqno.writeBigUInt64BE(message.sequenceNumber)
  return Buffer.concat([message.from.toMultihash().bytes, seqno])
}

async function create ({ node: name, own_ids: ownIds = false, looks_around: looksAround = false }) {
  const node = await createLibp2p({
    addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux({ maxOutboundStreams: STREAMS })],
    connectionManager: { reconnectRetries: 0 },
    services: {
      identify: identify(),
      ping: ping(),
      dht: kadDHT({
        protocol: '/ipfs/kad/1.0.0',
        clientMode: false,
        // until it has once looked itself up, it asks nobody for others
        initialQuerySelfInterval: looksAround ? LOOKS_AROUND_MS : NEVER_MS,
        peerInfoMapper: passthroughMapper // else addresses of this machine are left out
      }),
      pubsub: gossipsub(ownIds ? {} : { msgIdFn: messageId })
    }
  })
  nodes.set(name, node)
  node.services.pubsub.addEventListener('message', ({ detail }) => write({
    event: 'gossip', node: name, topic: detail.topic, from: detail.from.toString(), data: hex(detail.data)
  }))
  return { peer: node.peerId.toString(), addresses: node.getMultiaddrs().map(String) }
}

async function talk (stream, chunks, end, signal) {
  for (const chunk of chunks) {
    if (!stream.send(bytes(chunk))) await stream.onDrain({ signal })
  }
  if (end === 'abort') return stream.abort(new Error('in the middle'))
  if (end === 'hold') return
  await stream.close({ signal }) // our side of it
  if (end === 'close') return
  signal.addEventListener('abort', () => stream.abort(new Error('no end of the answer in time')))
  const answer = []
  for await (const chunk of stream) answer.push(chunk.subarray())
  return hex(Buffer.concat(answer))
}

const calls = {
  create,

  async dial (node, { address }, signal) {
    return (await node.dial(multiaddr(address), { signal })).remotePeer.toString()
  },

  async known (node, { peer }) { // from identify
    const { metadata, protocols, addresses } = await node.peerStore.get(peerIdFromString(peer))
    const agent = new TextDecoder().decode(metadata.get('AgentVersion'))
    return { agent, protocols, addresses: addresses.map(a => a.multiaddr.toString()) }
  },

  async ping (node, { peer }, signal) {
    return node.services.ping.ping(peerIdFromString(peer), { signal })
  },

  // Who named the peer's addresses: not ourselves, if the DHT had to be asked.
  async find (node, { peer }, signal) {
    for await (const event of node.services.dht.findPeer(peerIdFromString(peer), { signal })) {
      if (event.name === 'FINAL_PEER' && event.peer.multiaddrs.length > 0) {
        return { from: event.from.toString(), addresses: event.peer.multiaddrs.map(String) }
      }
    }
    throw new Error('not found')
  },

  async provide (node, { key }, signal) {
    await node.contentRouting.provide(cid(key), { signal })
  },

  async providers (node, { key }, signal) {
    const found = []
    for await (const one of node.contentRouting.findProviders(cid(key), { signal })) {
      found.push({ peer: one.id.toString(), addresses: one.multiaddrs.map(String) })
    }
    return found
  },

  async follow (node, { topics }) {
    for (const topic of topics) node.services.pubsub.subscribe(topic)
  },

  async followers (node, { topic }) {
    return node.services.pubsub.getSubscribers(topic).map(String)
  },

  async publish (node, { topic, data }) {
    const { recipients } = await node.services.pubsub.publish(topic, bytes(data))
    return recipients.map(String)
  },

  // What gossipsub here thinks of a peer.
  async score (node, { peer }) {
    return node.services.pubsub.score.score(peer)
  },

  // Says `chunks` on a stream of its own; `end`: read (the answer), close, abort, hold.
  async say (node, { peer, protocol, chunks, end }, signal) {
    const options = { signal, maxOutboundStreams: STREAMS }
    const stream = await connection(node, peer).newStream(protocol, options)
    return talk(stream, chunks, end, signal)
  },

  // Opens streams without a word on any.
  async open (node, { peer, count }, signal) {
    const { muxer } = connection(node, peer)
    for (let n = 0; n < count && muxer.status === 'open'; n++) await muxer.createStream({ signal })
  },

  async connections (node) {
    return node.getConnections().map(connection => connection.remotePeer.toString())
  },

  async cut (node, { peer }) {
    for (const connection of node.getConnections(peerIdFromString(peer))) {
      connection.abort(new Error('cut by the test'))
    }
  }
}

function connection (node, peer) { // a cut one is not made anew
  const [found] = node.getConnections(peerIdFromString(peer))
  if (found == null) throw new Error('not connected')
  return found
}

function cid (key) { // one whose multihash is this key
  return CID.createV1(raw.code, multihash(SHA2_256, bytes(key).subarray(2)))
}

async function answer ({ id, call, args, timeout_ms: timeout }) {
  try {
    const signal = AbortSignal.timeout(timeout)
    const result = call === 'create'
      ? await create(args)
      : await calls[call](nodes.get(args.node), args, signal)
    write({ id, result: result ?? null })
  } catch (error) {
    write({ id, error: `${error.name}: ${error.message}` })
  }
}

for await (const line of createInterface({ input: process.stdin })) answer(JSON.parse(line))
process.exit(0) // stdin has ended: so has the test
