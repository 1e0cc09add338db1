"""What can be checked: digests, proofs, sampling, verdicts and the ledger's fold.

Everything here is a pure function of its arguments (no network, no clock, no files), so that any
node recomputes the same answer. Imports `primed.native` and, lazily, torch; nothing else of ours.
"""
