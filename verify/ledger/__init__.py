"""The ledger: a pure fold of signed events at agreed cuts (algorithms.md section 10).

    state = genesis(run)
    state = fold(run, state, entries_between_the_cuts, state.number + 1)

Every node that folds the same events has the same `state.root`. The originator calls
`propose_cut`, everyone else `check_cut`. Facts are joined first (facts), then rules run (rules):
fraud, settlement, pay, vesting. A State is immutable, bounded by what is open and by the number of
peers, and is stored whole per cut; `state.settled` are the batches that this cut closed.
"""

from primed.verify.ledger.cuts import BadCut, MissingEvents, check_cut, propose_cut
from primed.verify.ledger.equivocation import forks, without_forks
from primed.verify.ledger.fold import fold
from primed.verify.ledger.state import (
    Account,
    AccountProof,
    Batch,
    Settled,
    State,
    Worker,
    account_proof,
    balances,
    decode_state,
    encode_state,
    genesis,
    is_account,
    open_cuts,
)

__all__ = [
    "Account",
    "AccountProof",
    "BadCut",
    "Batch",
    "MissingEvents",
    "Settled",
    "State",
    "Worker",
    "account_proof",
    "balances",
    "check_cut",
    "decode_state",
    "encode_state",
    "fold",
    "forks",
    "genesis",
    "is_account",
    "open_cuts",
    "propose_cut",
    "without_forks",
]
