"""Cuts: which events count, agreed by the originator's signature (`closing = originator`).

A cut lists the authors whose heads advanced since the cut before, sorted; an author that is not
listed is where it was. Anyone folds the same events and must arrive at the stated root.
"""

from __future__ import annotations

from collections.abc import Iterable

from primed.verify.digests import digest
from primed.verify.ledger.equivocation import without_forks
from primed.verify.ledger.fold import contiguous, fold
from primed.verify.ledger.state import State, waits_for_cuts
from primed.verify.runspec import Run
from primed.verify.statements import Cut, Entry, Head

HEADS_MAX = 600  # as in the bounds of statements.Cut


class BadCut(ValueError):
    """The cut is not the next one of this run's chain, or its root is not what its events give."""


class MissingEvents(Exception):
    """The cut names events that are not here: (author, first, last) sequence numbers to ask for.

    If the author equivocated, the cut may have taken the branch that this node does not hold: ask
    the cut's author for the range and pass that branch alone to `check_cut`.
    """

    def __init__(self, gaps: list[tuple[bytes, int, int]]) -> None:
        super().__init__(f"events of {len(gaps)} authors are missing")
        self.gaps = gaps


def propose_cut(
    run: Run, state: State, entries: Iterable[Entry], forks: dict[bytes, int] | None = None
) -> tuple[Cut, State] | None:
    """The next cut over all contiguous entries, and the state it gives; None if nothing is new
    and nothing open waits for cuts alone.

    entries: events after the state's heads, any order, older ones are skipped. forks: author ->
    first forked sequence number, from earlier evidence; forks among `entries` are found here.
    """
    chains = contiguous(state, without_forks(entries, forks))
    is_news = any(not isinstance(e.body, Cut) for chain in chains.values() for e in chain)
    if not is_news and not waits_for_cuts(run, state):
        return None
    # More authors than fit take turns: the order is another one after each cut.
    turns = sorted(chains, key=lambda author: digest("turn", state.root, author))[:HEADS_MAX]
    included = [entry for author in turns for entry in chains[author]]
    folded = fold(run, state, included, state.number + 1)
    heads = tuple(folded.heads[author] for author in sorted(turns))
    return Cut(folded.number, state.root, heads, folded.root), folded


def check_cut(run: Run, state: State, cut: Entry, entries: Iterable[Entry]) -> State:
    """The state after a cut event that the originator signed. Raises BadCut with the reason, or
    MissingEvents with what to pull first."""
    body = cut.body
    if not isinstance(body, Cut) or cut.author != run.spec.originator:
        raise BadCut("not a cut of the originator")
    if body.number != state.number + 1:
        raise BadCut(f"cut {body.number} does not follow cut {state.number}")
    if body.previous != state.root:
        raise BadCut(f"cut {body.number} builds on another state than ours")
    folded = fold(run, state, _named(state, body, entries), body.number)
    if folded.root != body.state_root:
        raise BadCut(f"cut {body.number}: its events give another state root")
    return folded


def _named(state: State, cut: Cut, entries: Iterable[Entry]) -> list[Entry]:
    """The entries between the state's heads and the cut's."""
    authors = [head.author for head in cut.heads]
    if authors != sorted(set(authors)):
        raise BadCut(f"cut {cut.number}: heads are not sorted by author")
    last = {head.author: head for head in cut.heads}
    for author, head in last.items():
        if author in state.heads and head.seq <= state.heads[author].seq:
            raise BadCut(f"cut {cut.number}: a head does not advance")
    named = [
        entry for entry in entries if entry.author in last and entry.seq <= last[entry.author].seq
    ]
    chains = contiguous(state, without_forks(named))
    gaps: list[tuple[bytes, int, int]] = []
    for author, head in last.items():
        chain = chains.get(author, [])
        before = _head_seq(state, author)
        if not chain or chain[-1].seq < head.seq:
            gaps.append((author, (chain[-1].seq if chain else before) + 1, head.seq))
        elif chain[-1].digest != head.digest:
            gaps.append((author, before + 1, head.seq))
    if gaps:
        raise MissingEvents(gaps)
    return [entry for chain in chains.values() for entry in chain]


def _head_seq(state: State, author: bytes) -> int:
    head: Head | None = state.heads.get(author)
    return -1 if head is None else head.seq
