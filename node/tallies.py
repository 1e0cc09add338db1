"""How many batches of each worker became usable or were rejected, as this node saw it.

Counted once a batch, since the daemon started; what matters for pay is in the ledger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from primed.verify.cases import Case


class Tallies:
    def __init__(self) -> None:
        self.usable: Counter[bytes] = Counter()  # by worker
        self.rejected: Counter[bytes] = Counter()
        self.reasons: Counter[tuple[bytes, str]] = Counter()  # (worker, reason of a reject)
        self._usable: set[bytes] = set()  # commitments counted
        self._rejected: set[bytes] = set()

    def observe(self, case: Case) -> None:
        if case.usable_since is not None and case.commitment not in self._usable:
            self._usable.add(case.commitment)
            self.usable[case.worker] += 1
        if case.state == "rejected" and case.commitment not in self._rejected:
            self._rejected.add(case.commitment)
            self.rejected[case.worker] += 1
            self.reasons[case.worker, case.now.reason] += 1

    def prune(self, is_open: Callable[[bytes], bool]) -> None:
        """Forget the commitments of closed cases: they cannot be counted again."""
        self._usable = set(filter(is_open, self._usable))
        self._rejected = set(filter(is_open, self._rejected))
