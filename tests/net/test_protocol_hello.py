"""Hello: records both ways, RunSpecs by id, and what a liar gets."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from primed.p2p.errors import RemoteError
from primed.protocols.framing import encode
from primed.protocols.hello import Hello, NodeRecord, open_record, sign_record
from primed.protocols.rpc import Refused

from .memory_network import Fabric, Key, MemoryNetwork
from .protocol_samples import NOW_MS, example_run


def record_of(node: MemoryNetwork, sequence: int = 1) -> NodeRecord:
    expires = NOW_MS + 3_600_000
    return NodeRecord(
        node.peer, ("worker",), ("/primed/hello/1",), (), (), "cpu", sequence, expires
    )


def hello_on(node: MemoryNetwork) -> Hello:
    run = example_run(node.key)
    return Hello(
        node,
        lambda: record_of(node),
        node.key.sign,
        lambda: {run.run_id: run.signed},
        lambda: NOW_MS,
    )


@pytest.mark.trio
async def test_connected_nodes_learn_each_others_record_and_runs() -> None:
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            fabric = Fabric(nursery)
            a, b = fabric.node(1), fabric.node(2)
            hello_a, hello_b = hello_on(a), hello_on(b)
            seen: list[bytes] = []
            hello_a.on_record(lambda record: seen.append(record.peer))
            nursery.start_soon(hello_a.run)
            nursery.start_soon(hello_b.run)
            fabric.link(a, b)
            while b.peer not in hello_a.records or a.peer not in hello_b.records:
                await trio.sleep(0.01)
            assert hello_a.records[b.peer] == record_of(b) and seen == [b.peer]
            (run_id,) = await hello_a.list_runs(b.peer)
            assert (await hello_a.get_run(b.peer, run_id)).run_id == run_id
            with pytest.raises(Refused, match="not_found"):
                await hello_a.get_run(b.peer, bytes(32))
            assert a.penalties == b.penalties == []
            nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_what_a_peer_signed_is_known_after_a_restart_until_it_says_something_new() -> None:
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            fabric = Fabric(nursery)
            a, b = fabric.node(1), fabric.node(2)
            old = NodeRecord(b.peer, ("verifier",), (), (), (), "", 99, NOW_MS + 60_000)
            a.kept_records = {
                b.peer: encode(sign_record(old, b.key.sign)),
                Key(3).peer: encode(sign_record(old, b.key.sign)),  # in another's name
                Key(4).peer: b"\xc1",
                Key(5).peer: encode(sign_record(expired_record_of(Key(5)), Key(5).sign)),
            }
            hello = hello_on(a)
            nursery.start_soon(hello.run)
            await trio.testing.wait_all_tasks_blocked()
            assert list(hello.records) == [b.peer] and hello.records[b.peer].roles == ("verifier",)
            hello_b = hello_on(b)
            fabric.link(a, b)
            await hello_b.greet(a.peer)
            assert hello.records[b.peer] == record_of(b)  # though its number is lower
            assert a.penalties == []
            nursery.cancel_scope.cancel()


def expired_record_of(key: Key) -> NodeRecord:
    return NodeRecord(key.peer, (), (), (), (), "", 1, NOW_MS - 86_400_000)


@pytest.mark.trio
async def test_a_record_about_somebody_else_is_rejected_and_charged() -> None:
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            fabric = Fabric(nursery)
            a, b = fabric.node(1), fabric.node(2)
            hello_a = hello_on(a)
            Hello(b, lambda: record_of(a), b.key.sign, dict, lambda: NOW_MS)
            fabric.link(a, b)
            with pytest.raises(RemoteError, match="another peer"):
                await hello_a.greet(b.peer)
            assert a.penalties[0][0] == b.peer
            assert b.peer not in hello_a.records
            nursery.cancel_scope.cancel()


def test_a_record_with_a_wrong_signature_names_the_peer() -> None:
    one, two = Key(1), Key(2)
    record = NodeRecord(one.peer, (), (), (), (), "", 1, NOW_MS)
    with pytest.raises(RemoteError, match="not signed") as caught:
        open_record(sign_record(record, two.sign), one.peer)
    assert caught.value.peer == one.peer
