"""Anti-entropy: compare heads with a peer and fetch what we lack; find forks and our own past.

Every byte from the peer goes through the same validation as gossip. A peer that serves what does
not validate, or promises heads it cannot show, is charged and left. Called by `service` only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import trio

from primed.p2p.errors import HIGH, LOW, MID, RemoteError
from primed.p2p.network import Acceptance, Network, PeerId
from primed.protocols.client import Client
from primed.protocols.events.journal import Journal
from primed.protocols.events.messages import (
    Equivocation,
    GetHead,
    GetHeads,
    GetProof,
    GetRange,
    Heads,
    Range,
    Response,
    SignedEvent,
    Stored,
    Void,
)
from primed.protocols.events.validation import linked_events, validate_event
from primed.protocols.limits import RANGE_EVENTS, RECOVER_HEAD_PEERS, VISIT_S
from primed.verify.statements import Head

ONE_MORE_S = 1.0  # after the first answer about our own head, how long to wait for another peer


@dataclass(frozen=True)
class Recovery:
    """What peers said about our own chain: how many answered, how many events we had lost."""

    answered: int
    adopted: int

    def __str__(self) -> str:
        """One sentence for `primed status`."""
        if not self.answered:
            return "No peer could confirm our own chain; the local store counts."
        if self.adopted:
            return f"Adopted {self.adopted} of our own events that the local store had lost."
        return f"{self.answered} peers confirm our own chain."


class Sync:
    def __init__(
        self,
        network: Network,
        client: Client[Response],
        journal: Journal,
        wall_clock: Callable[[], int],
    ) -> None:
        self._network = network
        self._client = client
        self._journal = journal
        self._chains = journal.chains
        self._wall_clock = wall_clock

    async def with_peer(self, peer: PeerId) -> bool:
        """Learn what the peer has and we have not, a range of each author in turn; whether that is
        all of it: after VISIT_S others have their turn. Raises RemoteError (charged)."""
        until = trio.current_time() + VISIT_S
        message = GetHeads(self._chains.run, self._chains.summary())
        answer = await self._client.request(peer, message)
        if not isinstance(answer, Heads):
            raise self._charged(peer, MID, "wrong answer")
        voids, heads = deque(answer.voids), deque(answer.heads)
        while (voids or heads) and trio.current_time() < until:
            if voids:
                await self._learn_void(peer, voids.popleft())
            elif await self._learns_more(peer, head := heads.popleft()):
                heads.append(head)
        return not voids and not heads

    async def branch(self, peer: PeerId, head: Head, start: int, prev: bytes) -> list[Stored]:
        """Events start..head.seq if the peer has them and they lead from `prev` to this head; else
        []: it may hold another branch. Raises RemoteError."""
        found: list[Stored] = []
        while (at := start + len(found)) <= head.seq:
            count = min(RANGE_EVENTS, head.seq - at + 1)
            request = GetRange(self._chains.run, head.author, at, count)
            answer = await self._client.request(peer, request)
            if not isinstance(answer, Range) or len(answer.events) > count:
                raise self._charged(peer, MID, "wrong answer")
            before = found[-1].digest if found else prev
            linked = linked_events(self._chains.run, head.author, at, before, answer.events)
            if not linked:
                return []
            found += linked
        return found if found and found[-1].digest == head.digest else []

    async def recover(self, me: bytes, deadline_s: float) -> Recovery:
        """Ask up to two peers for our own head; adopt a longer chain. Ends by the deadline."""
        answered, first_seq = 0, self._chains.next_seq(me)
        asked: set[PeerId] = set()
        with trio.move_on_after(deadline_s) as scope:
            while answered < RECOVER_HEAD_PEERS:
                fresh = [info.peer for info in self._network.peers() if info.peer not in asked]
                if not fresh:
                    await trio.sleep(0.05)
                    continue
                asked.add(fresh[0])
                if await self._asked_about(fresh[0], me):
                    answered += 1
                    scope.deadline = min(scope.deadline, trio.current_time() + ONE_MORE_S)
        return Recovery(answered, self._chains.next_seq(me) - first_seq)

    async def _asked_about(self, peer: PeerId, author: bytes) -> bool:
        try:
            answer = await self._client.request(peer, GetHead(self._chains.run, author))
            if not isinstance(answer, Heads):
                raise self._charged(peer, MID, "wrong answer")
            for head in answer.heads:
                while head.author == author and await self._learns_more(peer, head):
                    pass
        except RemoteError:
            return False
        return True

    async def _learns_more(self, peer: PeerId, head: Head) -> bool:
        """Fetch a range towards the peer's head, or to where a proof ends the author's chain;
        whether to go on."""
        last = self._chains.last_valid(head.author, head.seq)
        if last < 0 or self._chains.is_full_for(head.author):
            return False
        known = self._chains.digest_at(head.author, last)
        if known is None:
            return await self._fetch_towards(peer, head.author, last)
        if last == head.seq and known != head.digest:
            await self._compare(peer, head.author, last)
        return False

    async def _learn_void(self, peer: PeerId, void: Void) -> None:
        if self._chains.is_void(void.author, void.seq):
            return
        answer = await self._client.request(peer, GetProof(self._chains.run, void.author))
        if not isinstance(answer, Equivocation) or not await self._journal.convict(answer):
            raise self._charged(peer, HIGH, "no proof of equivocation")

    async def _fetch_towards(self, peer: PeerId, author: bytes, last: int) -> bool:
        """Whether that brought us on, and not to the end."""
        start = self._chains.next_seq(author)
        fetched = await self._range(peer, author, start, min(RANGE_EVENTS, last - start + 1))
        if await self._journal.admit(fetched):
            await self._find_fork(peer, author)
            return False
        return start < self._chains.next_seq(author) <= last

    async def _find_fork(self, peer: PeerId, author: bytes) -> None:
        """The peer's next event does not follow ours: then its event before differs from ours."""
        last = self._chains.next_seq(author) - 1
        if last < 0 or not await self._compare(peer, author, last):
            raise self._charged(peer, MID, "keeps a chain whose links do not fit")

    async def _compare(self, peer: PeerId, author: bytes, seq: int) -> bool:
        """Take in the peer's event at a place that we have too; whether that convicts the
        author."""
        await self._journal.admit(await self._range(peer, author, seq, 1))
        return self._chains.is_void(author, seq)

    async def _range(self, peer: PeerId, author: bytes, start: int, count: int) -> list[Stored]:
        """Validated events from start on; ends early at one that we ignore for now."""
        answer = await self._client.request(peer, GetRange(self._chains.run, author, start, count))
        if not isinstance(answer, Range) or len(answer.events) > count:
            raise self._charged(peer, MID, "wrong answer")
        if not answer.events:
            raise self._charged(peer, LOW, "has not the events it announced")
        found: list[Stored] = []
        for seq, signed in enumerate(answer.events, start):
            stored = self._validated(peer, author, seq, signed)
            if stored is None:
                break
            found.append(stored)
        return found

    def _validated(
        self, peer: PeerId, author: bytes, seq: int, signed: SignedEvent
    ) -> Stored | None:
        outcome = validate_event(self._chains, self._wall_clock(), signed)
        if outcome.acceptance is Acceptance.REJECT:
            raise self._charged(peer, HIGH, outcome.reason)
        if outcome.stored is None:
            return None
        if (outcome.stored.event.author, outcome.stored.event.seq) != (author, seq):
            raise self._charged(peer, MID, "other events than asked")
        return outcome.stored

    def _charged(self, peer: PeerId, penalty: int, reason: str) -> RemoteError:
        self._network.penalise(peer, penalty, reason)
        return RemoteError(reason, peer=peer, penalty=penalty)
