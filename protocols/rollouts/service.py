"""Rollouts: workers push batches to holders and get signed receipts; anyone fetches by digest.

The daemon makes one for the run it takes part in. It needs no task of its own: the server answers
in the network's stream handlers, `push` and `fetch` run in their callers.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from primed.p2p.errors import HIGH, MID, RemoteError
from primed.p2p.network import PeerId
from primed.protocols.by_run import RunServers
from primed.protocols.disk import on_disk
from primed.protocols.limits import ATTACHMENT_MAX_BYTES, BUSY_RETRY_MS, RECEIPT_WAIT_S
from primed.protocols.rollouts.messages import (
    BatchHeader,
    Found,
    Get,
    Offer,
    Put,
    Stored,
    Wanted,
    requests,
    responses,
)
from primed.protocols.rollouts.store import BatchStore
from primed.protocols.rpc import Attachment, Refused, busy, read_to_file
from primed.protocols.server import Reply
from primed.verify import signing
from primed.verify.statements import Receipt, stored_message

PROTOCOL = "/primed/rollouts/1"
WhyNotStore = Callable[[bytes, int], str]  # (worker, counter) -> "" or why not


class Rollouts:
    def __init__(
        self,
        servers: RunServers,
        run_id: bytes,
        identity_peer: bytes,
        sign: signing.Signer,
        folder: Path,
        why_not_store: WhyNotStore,
        is_judge: Callable[[PeerId], bool] = lambda _: False,
    ) -> None:
        """Opens the store in `folder`. why_not_store refuses a worker's batch (`denied`). is_judge:
        whether a peer checks batches for the run, so that it gets them in quiet hours, too."""
        self._network = servers.network
        self._run_id = run_id
        self._me = identity_peer
        self._sign = sign
        self._why_not_store = why_not_store
        self._is_judge = is_judge
        self._store = BatchStore(folder)
        self._uploading: set[PeerId] = set()
        self._client = servers.client(PROTOCOL, responses)
        servers.serve(
            PROTOCOL,
            requests,
            run_id,
            self._answer,
            attachment_max_bytes=ATTACHMENT_MAX_BYTES,
        )

    # ---- for the daemon

    async def push(
        self, holder: PeerId, path: Path, *, counter: int, batch: bytes, root: bytes
    ) -> Receipt:
        """Have a holder (we may be one) store our batch file. Idempotent: what the holder has
        already is not sent again. Raises Refused (denied; busy with retry_after_ms) and
        RemoteError; a receipt that does not verify is charged."""
        size_bytes = (await on_disk(path.stat)).st_size
        header = BatchHeader(self._run_id, self._me, counter, batch, root, size_bytes)
        if holder == self._me:
            return await self._keep_own(path, header)
        answer = await self._client.request(holder, Offer(header))
        if isinstance(answer, Wanted):
            answer = await self._client.request(
                holder, Put(header), attach=(path, size_bytes), wait_s=RECEIPT_WAIT_S
            )
        if not isinstance(answer, Stored):
            raise self._charged(holder, MID, "wrong answer")
        receipt, message = answer.receipt, _message(header)
        if receipt.holder != holder or not signing.is_signed_by(
            holder, "stored", message, receipt.signature
        ):
            raise self._charged(holder, HIGH, "receipt is not valid")
        return receipt

    async def fetch(self, holder: PeerId, batch: bytes, size_bytes: int) -> Path:
        """The verified file of a batch of this size: from here if it is here, else from the
        holder. Raises Refused (not_found) and RemoteError; wrong bytes are charged."""
        if (path := self._store.path(batch)) is not None:
            return path
        if holder == self._me:
            raise Refused("not_found", "no such batch here")
        with self._store.arriving() as arrived:

            async def receive(attachment: Attachment) -> None:
                if attachment.size_bytes != size_bytes:
                    raise RemoteError("batch of another size", peer=holder, penalty=MID)
                await read_to_file(attachment, arrived)

            answer = await self._client.request(
                holder, Get(self._run_id, batch), receive=receive, receive_max_bytes=size_bytes
            )
            if not isinstance(answer, Found):
                raise self._charged(holder, MID, "wrong answer")
            try:
                return await on_disk(self._store.keep_fetched, arrived, batch, size_bytes, holder)
            except RemoteError as error:
                raise self._charged(holder, HIGH, error.reason) from None

    def path(self, batch: bytes) -> Path | None:
        """The verified file of a batch that is here."""
        return self._store.path(batch)

    def commit(self, worker: bytes, counter: int, batch: bytes) -> None:
        """Its worker's commitment names this batch: the counter is not given to another now."""
        self._store.commit(worker, counter, batch)

    async def forget(self, worker: bytes, counter: int, batch: bytes, *, fetched: bool) -> None:
        """Nobody needs this worker's batch any more (used, or ended otherwise), nor if `fetched`
        the same bytes that we fetched. They are deleted unless others had them stored, too."""
        await on_disk(self._store.delete, worker, counter, batch, fetched=fetched)

    # ---- holder's side

    async def _answer(self, peer: PeerId, message: Offer | Put | Get, body: Attachment) -> Reply:
        if isinstance(message, Get):
            return await self._found(peer, message)
        self._check(peer, message.header)
        if self._store.is_held_for(message.header):
            return Reply(Stored(self._receipt(message.header)))
        self._check_room(message.header)
        if isinstance(message, Offer):
            self._check_hours()
            return Reply(Wanted())
        return await self._take(peer, message.header, body)

    async def _found(self, peer: PeerId, message: Get) -> Reply:
        path = self._store.path(message.batch)
        if path is None:
            raise Refused("not_found", "no such batch here")
        try:
            size_bytes = (await on_disk(path.stat)).st_size
        except FileNotFoundError:
            raise Refused("not_found", "no such batch here any more") from None
        return Reply(Found(), attach=(path, size_bytes), is_owed=self._is_judge(peer))

    def _check(self, peer: PeerId, header: BatchHeader) -> None:
        if header.worker != peer:
            raise RemoteError("batch of another worker", peer=peer, penalty=MID)
        if reason := self._why_not_store(header.worker, header.counter):
            raise Refused("denied", reason)

    def _check_hours(self) -> None:
        """What is taken has to be given to others soon."""
        if quiet_s := self._network.uploads.quiet_s():
            raise busy("quiet hours", quiet_s)

    def _check_room(self, header: BatchHeader) -> None:
        if self._store.is_committed(header.worker, header.counter):
            raise Refused("denied", "another batch was committed under this counter")
        reason = self._store.why_no_room(header)
        if header.worker in self._uploading:
            reason = "another upload of this worker is under way"
        if reason:
            raise Refused("busy", reason, retry_after_ms=BUSY_RETRY_MS)

    async def _take(self, peer: PeerId, header: BatchHeader, body: Attachment) -> Reply:
        if body.size_bytes != header.size_bytes:
            raise RemoteError("batch of another size", peer=peer, penalty=MID)
        self._uploading.add(peer)
        try:
            with self._store.arriving() as arrived:
                await read_to_file(body, arrived)
                await on_disk(self._store.keep, arrived, header)
        finally:
            self._uploading.discard(peer)
        return Reply(Stored(self._receipt(header)))

    async def _keep_own(self, path: Path, header: BatchHeader) -> Receipt:
        if not self._store.is_held_for(header):
            with self._store.arriving() as arrived:
                await on_disk(shutil.copyfile, path, arrived)
                await on_disk(self._store.keep, arrived, header)
        return self._receipt(header)

    def _receipt(self, header: BatchHeader) -> Receipt:
        message = signing.message_to_sign("stored", _message(header))
        return Receipt(self._me, self._sign(message))

    def _charged(self, peer: PeerId, penalty: int, reason: str) -> RemoteError:
        self._network.penalise(peer, penalty, reason)
        return RemoteError(reason, peer=peer, penalty=penalty)


def _message(header: BatchHeader) -> bytes:
    return stored_message(header.run, header.worker, header.counter, header.batch, header.root)
