"""What daemons have on disk, read beside them, and what must hold of it whatever was killed."""

from __future__ import annotations

import base64
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Any, TypeVar

from primed.node.demo.recipe import PRICES
from primed.node.demo.swarm import LocalNode
from primed.p2p import identity
from primed.protocols.events.messages import event_digest, events
from primed.protocols.framing import decode
from primed.verify.ledger import State, decode_state
from primed.verify.statements import Body, Committed, Entry, Manifest, Skipped, version_of

from .running import RunningSwarm

B = TypeVar("B", bound=Body)


class Books:
    """One daemon's store, read only; the daemon may run or not."""

    def __init__(self, node: LocalNode, run: str) -> None:
        self._path = node.paths.database
        self._run = bytes.fromhex(run)
        self.peer = node.peer

    def _rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True)) as connection:
            return connection.execute(sql, (self._run, *values)).fetchall()

    def entries(self, kind: type[B]) -> list[Entry]:
        """All statements of a kind, by author and sequence number."""
        tag = kind.__struct_config__.tag
        sql = "SELECT event FROM events WHERE run=? AND kind=? ORDER BY author, seq"
        found = []
        for (data,) in self._rows(sql, tag):
            event = decode(events, data)
            found.append(Entry(event.author, event.seq, event_digest(data), event.body))
        return found

    def manifests(self) -> dict[int, Manifest]:
        """Those that make a version, by step; merged deltas lead to one. Fails if one step has two."""
        stated = [e.body for e in self.entries(Manifest) if isinstance(e.body, Manifest)]
        bodies = [manifest for manifest in stated if manifest.kind != "merged"]
        found = {manifest.step: manifest for manifest in bodies}
        assert len(found) == len(bodies), "a step has two manifests"
        return found

    def counters(self, worker: bytes) -> list[int]:
        """That the worker's statements account for, in the order in which it made them."""
        made = [e for kind in (Committed, Skipped) for e in self.entries(kind)]
        mine = sorted((e for e in made if e.author == worker), key=lambda entry: entry.seq)
        return [e.body.counter for e in mine if isinstance(e.body, Committed | Skipped)]

    def newest_batch(self) -> tuple[int, str] | None:
        """(counter, state) of this worker's newest batch."""
        sql = "SELECT counter, state FROM batches WHERE run=? ORDER BY counter DESC LIMIT 1"
        return next(((counter, state) for counter, state in self._rows(sql)), None)

    def versions_of(self, worker: bytes) -> list[int]:
        """Steps of the versions that the worker's batches were made with, oldest batch first."""
        steps = {version_of(manifest): step for step, manifest in self.manifests().items()}
        made = (e.body for e in self.entries(Committed) if e.author == worker)
        return [steps[body.version] for body in made if isinstance(body, Committed)]

    def is_step_done(self, step: int) -> bool:
        """Whether the journal says that the step's version was published."""
        return bool(self._rows("SELECT 1 FROM journal WHERE run=? AND step=? AND is_done=1", step))

    def choice(self) -> tuple[int, tuple[bytes, ...]] | None:
        """(step, commitments) of the newest journalled step."""
        sql = "SELECT step, batches FROM journal WHERE run=? ORDER BY step DESC LIMIT 1"
        for step, joined in self._rows(sql):
            return step, tuple(joined[at : at + 32] for at in range(0, len(joined), 32))
        return None

    def states(self) -> Iterator[State]:
        """The folded ledger states that are still kept, oldest first."""
        sql = "SELECT state FROM cuts WHERE run=? AND length(state) > 0 ORDER BY number"
        for (data,) in self._rows(sql):
            yield decode_state(data)


def books_of(running: RunningSwarm, name: str) -> Books:
    return Books(running[name], running.run)


def assert_sound(running: RunningSwarm) -> None:
    """What holds after every fault: all daemons fold the same cuts to the same roots, no step has
    two versions, no batch is in two, counters are contiguous, the credits add up (scenario 42), and
    no key was written anywhere (scenario 43)."""
    assert_no_secret_in(running, {})
    names = list(running.up())
    before = max(running.view(name).cut for name in names)
    state = running.until(
        lambda: _common_state(running, names, before + 1), "a cut with pay that all have folded"
    )
    for name in names:
        books = books_of(running, name)
        _assert_versions_are_unique(books)
        _assert_counters_are_contiguous(books)
    assert state.remaining_micro + _spent_micro(state) == PRICES.budget


def _common_state(running: RunningSwarm, names: list[str], least: int) -> State | None:
    """After a cut from `least` on that every daemon has folded, with the same root everywhere, and
    by which something was paid."""
    states = [{s.number: s for s in books_of(running, name).states()} for name in names]
    common = set.intersection(*(set(each) for each in states))
    for number in common:
        assert len({each[number].root for each in states}) == 1, f"cut {number} has two roots"
    newest = max(common, default=-1)
    return states[0][newest] if newest >= least and _spent_micro(states[0][newest]) else None


def _assert_versions_are_unique(books: Books) -> None:
    manifests = books.manifests()
    assert sorted(manifests) == list(range(len(manifests))), "a step is missing"
    used = Counter(c for manifest in manifests.values() for c in manifest.consumed)
    assert not [c.hex() for c, count in used.items() if count > 1], "a batch is in two versions"


def _assert_counters_are_contiguous(books: Books) -> None:
    authors = {entry.author for entry in books.entries(Committed)}
    for author in authors:
        counters = books.counters(author)
        assert counters == list(range(len(counters))), "a counter is missing or used twice"


def _spent_micro(state: State) -> int:
    accounts = state.accounts.values()
    return sum(a.final_micro + a.pending_micro + a.burned_micro for a in accounts)


def assert_no_secret_in(running: RunningSwarm, outputs: dict[str, str]) -> None:
    """Scenario 43: no form of any node's key is in a log, a console or what a command printed."""
    texts = dict(outputs)
    for name, node in running.swarm.nodes.items():
        for path in node.paths.logs.iterdir():
            texts[f"{name}/{path.name}"] = path.read_text(errors="replace")
    for name, node in running.swarm.nodes.items():
        for form in _forms(node):
            found = [where for where, text in texts.items() if form.lower() in text.lower()]
            assert not found, f"the key of {name} is in {found}"


def _forms(node: LocalNode) -> list[str]:
    """How a key could slip out: hex, base64 with and without padding, escaped bytes, PEM."""
    seed = identity.load(node.paths.identity).seed
    pem = node.paths.identity.read_text().splitlines()[1]
    plain = base64.b64encode(seed).decode()
    urlsafe = base64.urlsafe_b64encode(seed).decode()
    return [seed.hex(), plain.rstrip("="), urlsafe.rstrip("="), repr(seed)[2:-1], pem]
