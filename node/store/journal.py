"""The learner's journal: which batches a step takes is written down before the step is made.

A learner that is killed between the choice and the publication finds its choice again and makes
the same step from the same batches, so that no version forks from another of the same step.
"""

from __future__ import annotations

from collections.abc import Sequence

from primed.node.store.database import Database
from primed.verify.digests import DIGEST_BYTES


class Journal:
    def __init__(self, database: Database) -> None:
        self._database = database

    def choose(self, run: bytes, step: int, commitments: Sequence[bytes]) -> list[bytes]:
        """Write down the commitments of a step, in micro-batch order. What counts is returned:
        the first choice of that step."""
        with self._database.transaction():
            self._database.write(
                "INSERT OR IGNORE INTO journal (run, step, batches) VALUES (?,?,?)",
                *(run, step, b"".join(commitments)),
            )
            found = self.batches(run, step)
        assert found is not None
        return found

    def batches(self, run: bytes, step: int) -> list[bytes] | None:
        """The commitments chosen for a step; None if none were."""
        row = self._database.row("SELECT batches FROM journal WHERE run=? AND step=?", run, step)
        if row is None:
            return None
        joined: bytes = row[0]
        starts = range(0, len(joined), DIGEST_BYTES)
        return [joined[start : start + DIGEST_BYTES] for start in starts]

    def finish(self, run: bytes, step: int) -> bool:
        """The step's manifest is published. Whether it was unfinished before."""
        sql = "UPDATE journal SET is_done=1 WHERE run=? AND step=? AND is_done=0"
        return self._database.write(sql, run, step) == 1

    def drop(self, run: bytes, step: int) -> bool:
        """Forget the choice of a step that was refused and not published."""
        sql = "DELETE FROM journal WHERE run=? AND step=? AND is_done=0"
        return self._database.write(sql, run, step) == 1
