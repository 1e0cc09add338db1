"""The network: identity, host, discovery, gossip and streams. Knows nothing of RL.

Everything above this package sees only the `Network` interface (`primed.p2p.network`); libp2p is
imported nowhere else, and not by importing this package.
"""
