"""state_e = fold(state_{e-1}, events between the cuts): the ledger's only transition.

Pure and order-free across authors: the entries are sorted, facts are joined, then rules run
(algorithms.md section 10). Replays of folded events, events behind a gap in their author's
sequence and both branches of a fork count for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from primed.verify.ledger import facts, rules
from primed.verify.ledger.book import Book
from primed.verify.ledger.equivocation import without_forks
from primed.verify.ledger.state import State
from primed.verify.runspec import Run
from primed.verify.statements import Entry, Head


def fold(run: Run, state: State, entries: Iterable[Entry], cut_number: int) -> State:
    """The state after cut `cut_number`. Raises ValueError unless it follows the state's."""
    if cut_number != state.number + 1:
        raise ValueError(f"cut {cut_number} does not follow cut {state.number}")
    book = Book(run, state)
    chains = contiguous(state, without_forks(entries))
    facts.join(book, [entry for author in sorted(chains) for entry in chains[author]])
    for author, chain in chains.items():
        book.heads[author] = Head(author, chain[-1].seq, chain[-1].digest)
    rules.apply(book)
    return book.seal()


def contiguous(state: State, entries: Iterable[Entry]) -> dict[bytes, list[Entry]]:
    """Author -> entries that follow the state's head without a gap, in order. Never empty lists.

    An author's first event has sequence number 0 (protocols.events)."""
    chains: dict[bytes, list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: (entry.author, entry.seq)):
        chain = chains.setdefault(entry.author, [])
        head = state.heads.get(entry.author)
        last = chain[-1].seq if chain else (head.seq if head else -1)
        if entry.seq == last + 1:
            chain.append(entry)
    return {author: chain for author, chain in chains.items() if chain}
