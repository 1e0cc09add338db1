"""Merkle trees as RFC 6962 section 2.1, over BLAKE3: 0x00 leaf, 0x01 node, split at the largest
power of two below n. Used for batches, shard payloads, weights and the ledger's state."""

from __future__ import annotations

from collections.abc import Sequence

from blake3 import blake3

EMPTY_ROOT = blake3(b"").digest()


def leaf_hash(data: bytes | memoryview) -> bytes:
    hasher = blake3(b"\x00")
    hasher.update(data)
    return hasher.digest()


def leaf_hashes(data: bytes | memoryview, leaf_bytes: int) -> list[bytes]:
    """leaf_hash of each `leaf_bytes` of the data (a view of bytes); the last leaf may be short."""
    view = memoryview(data)
    return [leaf_hash(view[at : at + leaf_bytes]) for at in range(0, len(view), leaf_bytes)]


def _node_hash(left: bytes, right: bytes) -> bytes:
    return blake3(b"\x01" + left + right).digest()


def _split(n: int) -> int:
    """Largest power of two smaller than n (n >= 2)."""
    return 1 << ((n - 1).bit_length() - 1)


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Root over leaf *hashes* (see leaf_hash). The empty tree has EMPTY_ROOT."""
    level = list(leaves)
    if not level:
        return EMPTY_ROOT
    # Pairing neighbours level by level, an odd last node moving up unchanged, is the same tree.
    while len(level) > 1:
        paired = [_node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            paired.append(level[-1])
        level = paired
    return level[0]


def levels_of(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """All levels of the tree over leaf hashes, leaves first, [root] last: for many paths at once."""
    levels = [list(leaves) or [EMPTY_ROOT]]
    while len(level := levels[-1]) > 1:
        paired = [_node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        levels.append(paired + level[len(paired) * 2 :])
    return levels


def path_in(levels: Sequence[Sequence[bytes]], index: int) -> list[bytes]:
    """Audit path of leaf `index`: sibling hashes from the leaf up to the root."""
    if not 0 <= index < len(levels[0]):
        raise IndexError(f"leaf {index} of {len(levels[0])}")
    path: list[bytes] = []
    for level in levels[:-1]:
        if index ^ 1 < len(level):
            path.append(level[index ^ 1])
        index //= 2
    return path


def path_of(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """path_in for a single path. Raises IndexError."""
    if not leaves:
        raise IndexError("no leaves")
    return path_in(levels_of(leaves), index)


def is_in_tree(root: bytes, leaf: bytes, index: int, count: int, path: Sequence[bytes]) -> bool:
    """Whether leaf hash `leaf` is leaf `index` of the tree of `count` leaves with this root."""
    if not 0 <= index < count or len(path) > 64:
        return False
    at, node, width, used = index, leaf, count, 0
    while width > 1:
        if at ^ 1 < width:
            if used == len(path):
                return False
            sibling, used = path[used], used + 1
            node = _node_hash(sibling, node) if at & 1 else _node_hash(node, sibling)
        at, width = at // 2, (width + 1) // 2
    return used == len(path) and node == root
