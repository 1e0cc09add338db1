"""What peers say to each other: one folder a protocol, its specification in the docstring.

Uses `primed.p2p`'s interfaces for transport and `primed.verify` for digests and statements.
"""
